"""family: claims by hand, Holm over them, and the rule that no metric may be worse."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from ftlib import gates, paired
from ftlib.family import (
    family_rows,
    judge_no_worse,
    noise_row,
    none_claim,
    not_worse_claim,
    share_claim,
    win_claim,
)


def bits(ones: int, n: int) -> list[int]:
    return [1] * ones + [0] * (n - ones)


def test_share_claim_is_the_exact_binomial_test():
    """9 of 10 against 0.5: (10 + 1) / 1024. Less than: 1 of 10 is the same."""
    claim = share_claim("g", bits(9, 10), threshold=0.5, op=">=", hoped=0.8)
    assert claim.p == pytest.approx(11 / 1024)
    assert (claim.value, claim.n, claim.interval) == (0.9, 10, gates.wilson(9, 10))
    assert share_claim("g", bits(1, 10), threshold=0.5, op="<=", hoped=0.2).p == pytest.approx(11 / 1024)
    with pytest.raises(ValueError, match="a hope beyond the threshold"):
        share_claim("g", bits(1, 10), threshold=0.5, op="<=", hoped=0.6)


def test_win_claim_is_the_sign_test_without_ties():
    """5 won, 1 lost, 10 ties: (6 + 1) / 64."""
    claim = win_claim("g", [1.0] * 5 + [0.25] + [0.5] * 10)
    assert claim.p == pytest.approx(7 / 64)
    assert win_claim("g", [0.5] * 10).p == 1.0


def test_not_worse_of_counts_is_tangos_test():
    claim = not_worse_claim("g", [1] * 44, bits(43, 44), margin=0.1, seed=1)
    assert claim.p == pytest.approx(0.044, abs=5e-4)
    assert (claim.margin, claim.lost) == (0.1, pytest.approx(1 / 44))
    # sd sqrt(0.1): at the margin at least a tenth of the items changed; ((1.645 + 0.842) / 0.1)^2 * 0.1 = 61.8
    assert claim.needed == 62


def test_not_worse_of_scores_is_the_t_test():
    """Differences -0.1 and +0.1, 18 times: mean 0, sd 0.1014, t against -0.05: 0.05 * 6 / 0.1014 = 2.958 of 35 df."""
    one, two = [0.5] * 36, [0.4, 0.6] * 18
    claim = not_worse_claim("g", one, two, margin=0.05, seed=1, higher_is_better=False)
    assert claim.p == pytest.approx(0.00277, abs=2e-5)
    same = not_worse_claim("g", one, one, margin=0.05, seed=1)
    assert same.p == pytest.approx(0.95**36)  # no spread: a loss of 1 in 5 % of the items would have stayed unseen


def test_lower_is_better_keeps_the_metrics_own_direction():
    claim = not_worse_claim("g", bits(0, 50), bits(10, 50), margin=0.05, seed=1, higher_is_better=False)
    assert (claim.value, claim.lost) == (0.2, 0.2) and claim.p > 0.9


def test_attacks_on_one_prompt_show_less_than_prompts_do():
    """40 prompts under 5 attacks, all five of a prompt alike: 2 lost of 40, whatever the number of attacks."""
    prompts = np.repeat(np.arange(40), 5)
    before, after = np.zeros(200), np.isin(prompts, (3, 7)).astype(float)
    plain, fair = (
        not_worse_claim("jailbreaks", before, after, margin=0.1, seed=1, higher_is_better=False, clusters=of)
        for of in (None, prompts)
    )
    assert plain.value == fair.value == 0.05 and plain.n == fair.n == 200
    assert plain.p < 0.05 < fair.p < 0.25 and fair.interval.high > plain.interval.high + 0.05
    worth = 5 * 40 / 39 * (2.02269 / 1.95996) ** 2  # five of a prompt are alike, and Student's limit for 39
    assert fair.needed == math.ceil(worth * plain.needed) and fair.power < plain.power
    assert (plain.clusters, fair.clusters) == (None, 40)


def test_scores_in_clusters_are_claimed_by_cluster():
    """20 requests in 3 wordings that lose 0.1 or gain 0.1 together: the t-test of 20 means, not of 60 scores."""
    gain, of = np.repeat([0.1, -0.1] * 10, 3), np.repeat(np.arange(20), 3)
    plain, fair = (not_worse_claim("s", [0.5] * 60, 0.5 + gain, margin=0.05, seed=1, clusters=k) for k in (None, of))
    t = 0.05 / (gain.std(ddof=1) * math.sqrt(3 * 20 / 19 / 60))
    assert plain.p < 0.001 < fair.p == pytest.approx(stats.t.sf(t, 19))
    same = not_worse_claim("s", [0.5] * 60, [0.5] * 60, margin=0.05, seed=1, clusters=of)
    assert same.p < 1 and same.clusters == 20


def test_claims_of_wordings_are_those_of_fewer_prompts():
    """60 requests in 3 wordings, refused alike: 57 of 60 and not 171 of 180 against 0.85, hoped 0.925."""
    of, refused = np.repeat(np.arange(60), 3), np.repeat([1] * 57 + [0] * 3, 3)
    given = {"threshold": 0.85, "op": ">=", "hoped": 0.925}
    plain, fair = share_claim("h", refused, **given), share_claim("h", refused, **given, clusters=of)
    assert plain.value == fair.value == 0.95 and (plain.clusters, fair.clusters) == (None, 60)
    assert fair.interval == paired.share(refused, of)[1] and fair.interval.low < plain.interval.low
    assert fair.p == paired.share_p(refused, of, threshold=0.85, op=">=") > 3 * plain.p
    worth = 3 * 60 / 59 * (2.00100 / 1.95996) ** 2  # clusters of three alike, and Student's limit for 59
    assert fair.needed == math.ceil(worth * plain.needed) > fair.n >= plain.needed and fair.power < plain.power
    row = family_rows([fair])[0]
    assert (row["n"], row["clusters"]) == (180, 60) and row["can n show it?"].startswith("n = 180 cannot show this")


def test_wins_of_wordings_and_leaks_of_wordings():
    of = np.repeat(np.arange(40), 3)
    wins = np.repeat([1.0] * 26 + [0.0] * 14, 3)
    plain, fair = win_claim("w", wins), win_claim("w", wins, clusters=of)
    assert plain.p < 0.001 < fair.p and fair.interval.low < plain.interval.low
    kinds = np.repeat(["won"] * 26 + ["lost"] * 14, 3)  # all of the spread is between kinds of a fixed number
    assert win_claim("w", wins, clusters=of, strata=kinds).p < fair.p
    assert win_claim("w", [0.5] * 120, clusters=of).p == 1.0
    none = none_claim("leak", [0] * 120, rate=0.01, clusters=of)
    assert none.p == paired.share_p([0] * 120, of, threshold=0.01, op="<=") > 0.99**75  # 120 / 1.6 tries, not 120
    assert (none.needed, none.clusters) == (math.ceil(1.6 * (2.02269 / 1.95996) ** 2 * 299), 40)
    # Power and p agree: 299 tries of a cluster each are a little fewer, for 298 degrees of freedom
    edge = none_claim("leak", [0] * 299, rate=0.01, clusters=range(299))
    assert edge.p > 0.05 and edge.power == 0.0 and edge.needed == 302  # 299 * (1.96793 / 1.95996)^2


def test_a_few_clusters_do_not_break_the_power():
    for of in (list("aabb"), list("aaaa")):
        claim = not_worse_claim("s", [0.5] * 4, [0.5] * 4, margin=0.05, seed=1, clusters=of)
        assert claim.p > 0.9 and claim.power < 0.2
    low, high = 0.0013692500850740474, 0.4287021382937847
    halves = not_worse_claim(
        "s", [low] * 3 + [high] * 3, [high] * 3 + [low] * 3, margin=0.05, seed=1, clusters=list("aaabbb")
    )
    assert 0 < halves.power < 1


def test_none_claim():
    """Nothing in 299 tries: 0.99^299 = 0.0495; one in 299 is no longer enough."""
    assert none_claim("g", bits(0, 299), rate=0.01).p == pytest.approx(0.0495, abs=1e-4)
    assert none_claim("g", bits(1, 299), rate=0.01).p > 0.05
    assert none_claim("g", bits(0, 50), rate=0.01).needed == 299


def test_the_noise_floor_says_how_large_a_difference_means_nothing():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    row = noise_row("noise", first, second, seed=1)
    low, high = paired.share_difference(first, second)[1]
    assert row["claim"] == f"none: noise, up to {max(-low, high):.3f}" and low < 0 < high
    assert not row["shown"] and row["n"] == 200
    assert noise_row("noise", [0.5] * 9, [0.5] * 9, seed=1)["p"] == 1.0
    assert noise_row("noise", [0.5] * 9, [0.6] * 9, seed=1)["shown"]  # the second look always differs


def test_family_rows_are_corrected_by_holm():
    """p = 11/1024 and 7/64: the smaller twice, the larger once."""
    claims = [share_claim("a", bits(9, 10), threshold=0.5, op=">=", hoped=0.8), win_claim("b", [1.0] * 5 + [0.0])]
    one, two = family_rows(claims)
    assert (one["p (Holm)"], two["p (Holm)"]) == (pytest.approx(22 / 1024), pytest.approx(7 / 64))
    assert (one["shown"], two["shown"]) == (True, False)
    assert two["can n show it?"].startswith("n = 6 cannot show this;")
    with pytest.raises(ValueError, match="claims of different ids"):
        family_rows([claims[0], claims[0]])


def test_eight_empty_claims_look_shown_far_less_often_when_corrected():
    """Eight coins of 100 each: alone, one or more passes at 5 % in 1 - 0.956^8 = 30 % of 400 families (sd 2 %)."""
    rng = np.random.default_rng(5)
    alone = corrected = 0
    drawn = rng.binomial(100, 0.5, size=(400, 8))
    claim_of = {wins: win_claim("c", bits(wins, 100)) for wins in np.unique(drawn)}
    for wins in drawn:
        rows = family_rows([dataclasses.replace(claim_of[w], id=f"c{k}") for k, w in enumerate(wins)])
        alone += min(row["p"] for row in rows) <= 0.05
        corrected += any(row["shown"] for row in rows)
    assert alone / 400 > 0.23 and corrected / 400 < 0.08


def no_worse(lost: int, n: int, margin: float, id: str = "a"):
    return not_worse_claim(id, [1] * n, bits(n - lost, n), margin=margin, seed=1)


@pytest.mark.parametrize(
    ("claims", "verdict", "value", "note"),
    [
        ([no_worse(0, 200, 0.05), no_worse(2, 400, 0.05, "b")], "PASS", 0, ""),
        ([no_worse(0, 200, 0.05), no_worse(0, 20, 0.05, "b")], "ABSTAIN", 1, "b: n = 20 cannot show this; 124 needed"),
        ([no_worse(9, 200, 0.05)], "ABSTAIN", 1, "a: not shown"),
        ([no_worse(12, 200, 0.05), no_worse(0, 20, 0.05, "b")], "FAIL", 1, "a lost 0.06, allowed 0.05"),
        ([no_worse(10, 20, 0.05)], "FAIL", 1, "a lost 0.5, allowed 0.05"),  # few items, but the whole interval says so
        ([no_worse(2, 20, 0.05)], "ABSTAIN", 1, "a: n = 20 cannot show this"),
    ],
)
def test_no_metric_worse(claims, verdict, value, note):
    gate = judge_no_worse("dpo.no_metric_worse", "05_validate", claims)
    assert (gate.verdict, gate.value) == (verdict, value)
    assert gate.note.startswith(note) and gate.n == min(claim.n for claim in claims)


def test_a_gain_is_never_a_loss():
    gain = not_worse_claim("a", [0] * 50, [1] * 50, margin=0.05, seed=1)
    assert gain.needed == not_worse_claim("a", [0] * 50, [0] * 50, margin=0.05, seed=1).needed  # nor is it noise
    assert gain.lost == -1 and judge_no_worse("g", "05_validate", [gain]).verdict == "PASS"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: judge_no_worse("g", "05", [win_claim("b", [1.0])]), "needs its margin"),
        (lambda: not_worse_claim("g", [1], [1], margin=0, seed=1), r"margin inside \(0, 1\)"),
        (lambda: not_worse_claim("g", [5.0], [1.0], margin=0.1, seed=1), r"scores within \[0, 1\]"),
        (lambda: share_claim("g", [0.5], threshold=0.5, op=">=", hoped=0.8), "results of 0 and 1"),
        (lambda: family_rows([]), "claims of different ids"),
    ],
)
def test_wrong_questions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
