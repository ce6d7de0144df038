"""paired: Tango's published example, McNemar at zero, the restricted likelihood by brute force, coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats import contingency_tables

from ftlib.gates import paired_difference, wilson
from ftlib.paired import (
    change_p,
    changes,
    degrees_of_freedom,
    design_effect,
    difference,
    effective_n,
    mean_error,
    not_worse_p,
    score_z,
    share,
    share_difference,
    share_p,
    win_rate,
)


def test_tangos_published_example():
    """Table of the paper (contact lenses): 44 pairs, 43 good twice, one lost; margin 0.1: Z = 1.709, p = 0.044."""
    baseline, candidate = [1] * 44, [1] * 43 + [0]
    assert changes(baseline, candidate) == (0, 1, 44)
    assert score_z(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert not_worse_p(baseline, candidate, margin=0.1) == pytest.approx(0.044, abs=5e-4)
    difference, (low, high) = share_difference(baseline, candidate)
    assert (difference, low, high) == (
        pytest.approx(-1 / 44),
        pytest.approx(-0.118, abs=1e-3),
        pytest.approx(0.059, abs=1e-3),
    )


def test_at_zero_it_is_mcnemar():
    """(9 - 3) / sqrt(12) = 1.732; statsmodels' chi-square without correction is its square."""
    chi = contingency_tables.mcnemar([[5, 9], [3, 7]], exact=False, correction=False)
    assert score_z(9, 3, 24, 0.0) ** 2 == pytest.approx(chi.statistic) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "difference"), [(5, 3, 60, -0.05), (5, 3, 60, 0.2), (0, 0, 100, -0.05)]
)
def test_the_restricted_likelihood_by_brute_force(gained, lost, n, difference):
    """The share lost under the hypothesis maximises lost·ln q + gained·ln(q + d) + rest·ln(1 - 2q - d)."""

    def cost(q):
        counts, shares = (gained, lost, n - gained - lost), (q + difference, q, 1 - 2 * q - difference)
        return -sum(k * math.log(s) for k, s in zip(counts, shares, strict=True) if k)

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    q = optimize.minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    by_hand = (gained - lost - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))
    assert score_z(gained, lost, n, difference) == pytest.approx(by_hand, abs=1e-5)


def test_the_interval_ends_where_the_test_rejects():
    baseline, candidate = [1] * 30 + [0] * 30, [1] * 25 + [0] * 25 + [1] * 10
    _, (low, high) = share_difference(baseline, candidate)
    gained, lost, n = changes(baseline, candidate)
    assert [score_z(gained, lost, n, end) for end in (low, high)] == pytest.approx([1.95996, -1.95996], abs=1e-4)


def test_no_change_says_something_all_the_same():
    """0 changes of n: the ends are z^2 / (n + z^2), as Wilson's: 3.8415 / 47.8415."""
    assert share_difference([1] * 44, [1] * 44)[1] == pytest.approx((-0.0803, 0.0803), abs=1e-4)
    assert share_difference([0] * 5, [1] * 5)[1].high == 1.0
    assert not_worse_p([1] * 3, [1] * 3, margin=0.05) > 0.3  # three items show nothing


def test_lower_is_better_turns_it_round():
    baseline, candidate = [0] * 60, [1] * 6 + [0] * 54
    worse = not_worse_p(baseline, candidate, margin=0.05, higher_is_better=False)
    assert worse > 0.5 > not_worse_p(baseline, candidate, margin=0.05)
    assert not_worse_p(candidate, baseline, margin=0.05) == pytest.approx(worse)


def test_coverage_and_level_by_simulation():
    """2,000 data sets at the edge of the margin (3 % gain, 8 % lose, n 180): 95 % covered, 5 % called no worse."""
    rng = np.random.default_rng(7)
    counts = rng.multinomial(180, [0.03, 0.08, 0.89], size=2_000)
    limit = stats.norm.isf(0.025)
    z = np.array([score_z(int(g), int(k), 180, -0.05) for g, k, _ in counts])
    assert 0.93 <= (np.abs(z) <= limit).mean() <= 0.97
    assert (z >= stats.norm.isf(0.05)).mean() <= 0.065


def test_the_design_effect_by_hand():
    """Three prompts, two tries each, 1 1 | 1 0 | 0 0: off the mean by 1, 0, -1 a prompt, so 3/2 * 2 over 6 * 1/4."""
    prompts = ["a", "a", "b", "b", "c", "c"]
    assert design_effect([1, 1, 1, 0, 0, 0], prompts) == pytest.approx(2.0)
    # Prompts that are more alike than chance are chance: 1, and the guess 1 + 1 * 0.3 with the weight of a prompt's
    # two tries beside the three that are not like the others: (3 * 1 + 2 * 1.3) / 5
    assert design_effect([1, 0] * 3, prompts) == pytest.approx(1.12)
    assert design_effect([0] * 6, prompts) == pytest.approx(1.3)  # nothing tells: the guess alone
    assert design_effect([0] * 6, ["a", "b", "b", "b", "b", "b"]) == pytest.approx(1 + (26 / 6 - 1) * 0.3)
    assert design_effect([0, 1, 0], ["a"] * 3) == 3.0  # one prompt is all there is
    assert design_effect([1, 1, 0, 0, 1, 0], range(6)) == pytest.approx(6 / 5)  # each its own: n / (n - 1)


@pytest.mark.parametrize(
    ("clusters", "wordings", "margin"), [(28, 4, 0.05), (148, 3, 0.01), (60, 3, 0.02), (13, 12, 0.05)]
)
def test_one_failure_is_no_better_evidence_than_none(clusters, wordings, margin):
    """At the sizes of notebook 05: with each failure, in a cluster of its own, p rises, the end goes up."""
    of, n = np.repeat(np.arange(clusters), wordings), clusters * wordings
    p, ends, leaks = [], [], []
    for failures in range(5):
        bad = np.zeros(n)
        bad[np.arange(failures) * wordings] = 1
        p.append(not_worse_p(np.ones(n), 1 - bad, margin=margin, clusters=of))
        ends.append(share(bad, of)[1].high)
        leaks.append(share_p(bad, of, threshold=margin, op="<="))
    assert all(one < two for one, two in itertools.pairwise(p) if two < 0.5), p
    assert all(one < two for found in (ends, leaks) for one, two in itertools.pairwise(found)), (ends, leaks)


def test_two_clusters_have_an_interval_and_it_is_wide():
    """Student's limit of one degree of freedom is 12.7: (1.96 / 12.7)^2 of 4 / 2.65 items are left."""
    for results in ([1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]):
        value, (low, high) = share(results, list("aabb"))
        assert 0 <= low <= value <= high <= 1 and high - low > 0.9
    value, (low, high) = win_rate([1, 1, 0, 0, 1, 1], list("aabbcc"), confidence=1 - 0.05 / 4)
    assert low < 0.05 and high > 0.95 and value == pytest.approx(4 / 6)
    assert effective_n([1, 0], ["a", "a"]) == 0 and effective_n([1, 0], None) == pytest.approx(2.0)


def test_clusters_count_as_many_items_as_they_are_worth():
    """As above: worth 3 of 6. The half won is 1.5 of 3, its limit Student's with 2 degrees of freedom, 4.303:
    Wilson's centre 1/2, half width t/(n + t^2) * sqrt(n/4 + t^2/4) = 4.303/21.51 * sqrt(0.75 + 4.628)."""
    results, prompts = [1, 1, 1, 0, 0, 0], ["a", "a", "b", "b", "c", "c"]
    value, (low, high) = share(results, prompts)
    half = 4.3027 / (3 + 4.3027**2) * math.sqrt(3 / 4 + 4.3027**2 / 4)
    assert (value, low, high) == (0.5, pytest.approx(0.5 - half, abs=1e-4), pytest.approx(0.5 + half, abs=1e-4))
    gain, (low, high) = share_difference([0] * 6, results, clusters=prompts)
    t = stats.t.isf(0.025, 2)
    assert gain == 0.5 and [score_z(1.5, 0, 3, end) for end in (low, high)] == pytest.approx([t, -t], abs=1e-4)
    p = not_worse_p([0] * 6, results, margin=0.1, clusters=prompts)
    assert p == pytest.approx(stats.t.sf(score_z(1.5, 0, 3, -0.1), 2))


def test_kinds_that_differ_are_no_clusters():
    """Two kinds of two requests, two wordings each: 1 1 1 1 | 0 1 0 0. Off the kind's mean a cluster has 0, 0 and
    1/2, -1/2; 2/1 * (1/4 + 1/4) = 1 over the plain 8 * 5/8 * 3/8 = 15/8, so each counts in full. Without kinds the
    clusters are off 5/8 by 3/4, 3/4, -1/4, -5/4: 4/3 * (9 + 9 + 1 + 25)/16 = 11/3 over 15/8."""
    values, requests, kinds = [1, 1, 1, 1, 0, 1, 0, 0], list("aabbccdd"), list("hhhhbbbb")
    assert design_effect(values, requests) == pytest.approx(88 / 45)
    assert design_effect(values, requests, strata=kinds) == pytest.approx(1.12)  # 1, and the guess beside it as above
    assert (degrees_of_freedom(requests), degrees_of_freedom(requests, kinds)) == (3, 2)
    rate, ends = win_rate(values, requests, strata=kinds)
    items = 8 / 1.12 * (1.95996 / 4.30265) ** 2
    assert rate == 5 / 8 and ends == pytest.approx(wilson(5 / 8 * items, items), abs=1e-5)
    # A kind of one request alone has no mean to be held beside: it is put to another.
    assert degrees_of_freedom(["a", "b", "c"], ["h", "h", "b"]) == 2 == degrees_of_freedom("abc", "hbp")
    with pytest.raises(ValueError, match="each cluster in one stratum, got 'a' in two"):
        design_effect([1, 0, 1], ["a", "a", "b"], strata=["h", "b", "b"])
    with pytest.raises(ValueError, match="one stratum per item"):
        design_effect([1, 0], ["a", "b"], strata=["h"])


def test_a_claim_on_clusters_is_the_binomial_test_of_what_they_are_worth():
    """Where none of 30 differs, 30 / 1.6 count: 0.9^18.75 for none, and a little more, for t is 2.262, not 1.96."""
    of = np.repeat(np.arange(10), 3)
    items = 30 / 1.6 * (1.95996 / 2.26216) ** 2
    assert share_p([0] * 30, of, threshold=0.1, op="<=") == pytest.approx(0.9**items, abs=1e-5)
    assert share_p([1] * 30, of, threshold=0.9, op=">=") == pytest.approx(0.9**items, abs=1e-5)
    assert share_p([0] * 30, of, threshold=0.1, op=">=") == share_p([1] * 30, of, threshold=0.9, op="<=") == 1.0
    # 500 clusters of one: the exact test but for n / (n - 1) and t, which make it a little larger
    many = [1] * 450 + [0] * 50
    exact = stats.binomtest(450, 500, 0.85, alternative="greater").pvalue
    assert share_p(many, range(500), threshold=0.85, op=">=") == pytest.approx(exact, rel=0.05)
    assert share_p([1, 0], ["a", "a"], threshold=0.5, op=">=") == 1.0
    with pytest.raises(ValueError, match="a threshold inside"):
        share_p([1, 0], ["a", "b"], threshold=1.0, op=">=")


def test_mcnemar_of_clusters_counts_what_they_are_worth():
    """As above, worth 3 of 6: 3 gained, 0 lost become 1.5; z = 1.5 / sqrt(1.5), Student's with 2 degrees of freedom."""
    p = change_p([0] * 6, [1, 1, 1, 0, 0, 0], ["a", "a", "b", "b", "c", "c"])
    assert p == pytest.approx(2 * stats.t.sf(math.sqrt(1.5), 2))
    assert change_p([1, 0], [1, 0], ["a", "b"]) == change_p([1, 0], [0, 0], ["a", "a"]) == 1.0


def test_scores_in_clusters_have_students_interval():
    """0.1 0.1 | 0.3 0.3 | 0.2 0.2: each cluster counts once, but for 3/2 * (0.04 + 0.04) over 0.04: worth 3, so
    the error is 0.0894 * sqrt(3 / 6), and t with 2 degrees of freedom 4.303."""
    gain, of = np.array([0.1, 0.1, 0.3, 0.3, 0.2, 0.2]), list("aabbcc")
    error, free = mean_error(gain, of)
    assert (error, free) == (pytest.approx(gain.std(ddof=1) * math.sqrt(0.5)), 2)
    mean, (low, high) = difference([0.0] * 6, gain, seed=1, clusters=of)
    reach = stats.t.isf(0.025, 2) * error
    assert (mean, low, high) == (pytest.approx(0.2), pytest.approx(0.2 - reach), pytest.approx(0.2 + reach))
    assert difference([0.0] * 2, [0.1, 0.2], seed=1, clusters=["a", "a"])[1] == (-1.0, 1.0)


def test_one_prompt_alone_says_nothing_of_others():
    assert share([1, 1, 0], ["a"] * 3)[1] == (0.0, 1.0)
    assert share_difference([0, 0, 0], [1, 1, 0], clusters=["a"] * 3)[1] == (-1.0, 1.0)
    assert not_worse_p([0, 0, 0], [1, 1, 0], margin=0.1, clusters=["a"] * 3) == 1.0


def test_clusters_of_attacks_are_covered_and_taken_for_independent_are_not():
    """13 prompts under 12 attacks, shares of 0.6 and 0.2 that differ by prompt (intra-class correlation 0.3)."""
    rng, prompts, sets = np.random.default_rng(5), np.repeat(np.arange(13), 12), 300
    held = {"difference": 0, "taken for independent": 0, "share": 0, "share taken for independent": 0}
    tries = lambda p: (rng.random((13, 12)) < rng.beta(p / 0.3 - p, (1 - p) / 0.3 - (1 - p), 13)[:, None]).ravel()
    for _ in range(sets):
        one, two = tries(0.6), tries(0.2)
        for name, truth, (low, high) in (
            ("difference", -0.4, share_difference(one, two, clusters=prompts)[1]),
            ("taken for independent", -0.4, share_difference(one, two)[1]),
            ("share", 0.2, share(two, prompts)[1]),
            ("share taken for independent", 0.2, wilson(int(two.sum()), two.size)),
        ):
            held[name] += low <= truth <= high
    assert 0.92 <= held["difference"] / sets <= 0.98 and 0.92 <= held["share"] / sets <= 0.98
    assert held["taken for independent"] / sets < 0.75 and held["share taken for independent"] / sets < 0.75


def test_results_are_counted_and_scores_resampled():
    one, two = [0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0]
    assert difference(one, two, seed=1) == share_difference(one, two)
    assert difference(one, two, seed=1, clusters=range(6)) == share_difference(one, two, clusters=range(6))
    halves = [0.5, 1, 1, 0, 1, 0]
    assert difference(one, halves, seed=1) == paired_difference(one, halves, seed=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: design_effect([1, 0], ["a"]), "expected one cluster per item, got .* items and 1 clusters"),
        (lambda: design_effect([1, float("nan")], ["a", "b"]), "expected finite values"),
        (lambda: share([0.5], ["a"]), "results of 0 and 1 only"),
        (lambda: difference([0.5], [1], seed=1, clusters=["a", "b"]), "expected one cluster per item"),
        (lambda: difference([float("nan")], [1], seed=1), "finite numbers"),
        (lambda: changes([1], [1, 0]), "expected the same items twice"),
        (lambda: changes([], []), "expected the same items twice"),
        (lambda: changes([0.5], [1]), "results of 0 and 1 only"),
        (lambda: not_worse_p([1], [1], margin=0.0), r"margin inside \(0, 1\)"),
        (lambda: score_z(3, 3, 5, 0.0), r"gained \+ lost <= n"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
