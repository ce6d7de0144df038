"""pass@k, cases that can teach and the off-policy estimate, by hand and against brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from tiny import tiny_model

from ftlib import tree
from ftlib.offline import (
    RolloutLog,
    kl_from,
    log_likelihoods,
    mixed_at_k,
    off_policy,
    pass_at_k,
    pick_cases,
    sort_cases,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"),
    [
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 3 of 6 pairs hold the one
        (5, 2, 3, 9 / 10),  # 1 of 10 triples holds neither
        (8, 0, 8, 0.0),
        (8, 8, 1, 1.0),
        (4, 2, 4, 1.0),
        (200, 3, 100, 1 - (100 * 99 * 98) / (200 * 199 * 198)),
    ],
)
def test_pass_at_k_by_hand(n, c, k, chance):
    assert pass_at_k(n, c, k) == pytest.approx(chance)


@pytest.mark.parametrize(("n", "c", "k"), [(6, 2, 3), (7, 5, 2), (5, 5, 3), (6, 0, 2), (6, 3, 6)])
def test_both_chances_by_counting_every_choice(n, c, k):
    chosen = [sum(which) for which in itertools.combinations([1] * c + [0] * (n - c), k)]
    assert pass_at_k(n, c, k) == pytest.approx(np.mean([s > 0 for s in chosen]))
    assert mixed_at_k(n, c, k) == pytest.approx(np.mean([0 < s < k for s in chosen]))


def test_pass_at_k_is_unbiased():
    """Over all counts of n = 6 at p = 0.3, its mean is 1 - 0.7^2; the plug-in's is not."""
    weights = [math.comb(6, c) * 0.3**c * 0.7 ** (6 - c) for c in range(7)]
    assert sum(w * pass_at_k(6, c, 2) for c, w in enumerate(weights)) == pytest.approx(1 - 0.7**2)
    assert sum(w * (1 - (1 - c / 6) ** 2) for c, w in enumerate(weights)) != pytest.approx(1 - 0.7**2, abs=0.01)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_counts_that_are_none(n, c, k):
    with pytest.raises(ValueError, match="expected 1 <= k <= n"):
        pass_at_k(n, c, k)


def test_cases_in_the_band_can_teach():
    """Shares 0, 0.2, 0.4, 0.8 and 1: both ends of the band belong to it."""
    success_PG = [[0] * 5, [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1] * 5]
    assert sort_cases(success_PG) == {"too hard": [0], "teaches": [1, 2, 3], "too easy": [4]}
    assert sort_cases(success_PG, band=(0.3, 0.5)) == {"too hard": [0, 1], "teaches": [2], "too easy": [3, 4]}
    for wrong, band in (([[0.5]], (0, 1)), ([1, 0], (0, 1)), ([[]], (0, 1)), ([[1]], (0.8, 0.2))):
        with pytest.raises(ValueError, match="expected 0 and 1"):
            sort_cases(wrong, band=band)


def test_cases_to_train_on_by_hand():
    """Two kinds, four tries. Of the first, one case can teach (0.5); then the nearest to half is as good as another, in
    its order. Of the second none can, and it keeps its places all the same."""
    success_PG = [[1] * 4, [1, 1, 0, 0], [0] * 4, [1] * 4, [1] * 4, [0] * 4]
    kinds = ["refund", "refund", "refund", "decline", "decline", "decline"]
    assert [pick_cases(success_PG, kinds, want=n) for n in (1, 2, 3, 4)] == [[1], [1, 3], [0, 1, 3], [0, 1, 3, 4]]
    assert pick_cases(success_PG, kinds, want=6) == [0, 1, 2, 3, 4, 5]  # in the order that they came in
    # In the band all are alike, whatever their share; outside it the nearest to half comes first.
    shares = [[1, 0, 0, 0], [1, 1, 0, 0], [1] * 4, [1, 1, 1, 0]]
    assert pick_cases(shares, ["a"] * 4, want=1) == [0] and pick_cases(shares, ["a"] * 4, want=3) == [0, 1, 3]
    assert pick_cases(shares, ["a"] * 4, want=1, band=(0.5, 0.5)) == [1]
    for wrong in ({"kinds": kinds[:5], "want": 2}, {"kinds": kinds, "want": 0}, {"kinds": kinds, "want": 7}):
        with pytest.raises(ValueError, match="expected a kind a case and 1 to 6 wanted"):
            pick_cases(success_PG, **wrong)


def test_the_estimate_by_hand():
    """Weights 2, 0.5, 0.5, 1 and rewards 1, 0, 1, 0: (2 + 0.5) / 4. Deviations r - v are 0.375, -0.625, 0.375, -0.625;
    their weighted squares add up to 0.5625 + 0.09765625 + 0.03515625 + 0.390625 = 1.0859375."""
    found = off_policy([1, 0, 1, 0], np.log([0.4, 0.6, 0.6, 0.5]), np.log([0.8, 0.3, 0.3, 0.5]))
    assert found.value == pytest.approx(0.625)
    assert found.effective_n == pytest.approx(16 / 5.5)
    assert found.mean_weight == pytest.approx(1.0)
    half = 3.1824463 * math.sqrt(1.0859375) / 4  # Student's, 3 degrees of freedom
    assert found.interval == pytest.approx((max(0, 0.625 - half), min(1, 0.625 + half)), abs=1e-6)
    assert found.n == 4 and 0 <= found.lower < 0.625
    assert found.plain == pytest.approx(0.625)  # the weights' mean is 1


def test_the_plain_estimate_by_hand():
    """Weights 4, 0.5, 0.5 and rewards 1, 1, 0: plain 4.5 / 3 leaves [0, 1], self-normalised 4.5 / 5 does not."""
    found = off_policy([1, 1, 0], np.log([0.2, 0.6, 0.6]), np.log([0.8, 0.3, 0.3]))
    assert (found.plain, found.value) == (pytest.approx(1.5), pytest.approx(0.9))


def test_the_same_policy_is_the_plain_mean():
    rewards = np.array([1.0] * 60 + [0.0] * 40)
    logp = np.log(np.random.default_rng(1).random(100))
    found = off_policy(rewards[np.random.default_rng(2).permutation(100)], logp, logp)
    assert (found.value, found.effective_n) == (pytest.approx(0.6), pytest.approx(100))
    assert found.interval == pytest.approx((0.502, 0.698), abs=0.002)  # 0.6 -+ 1.984 sqrt(0.24 / 100)
    assert 0.2 < found.lower < 0.6


def test_what_the_target_never_does_counts_for_nothing():
    found = off_policy([1, 0, 1, 1], np.log([0.5] * 4), [-math.inf, math.log(0.5), math.log(0.5), -math.inf])
    assert (found.value, found.effective_n) == (pytest.approx(0.5), pytest.approx(2))


def test_a_huge_weight_lifts_the_estimate_and_not_the_bound():
    """One lucky rollout that the log hardly ever makes: weight e^5, against 50 failures at weight 1."""
    logp, target = np.zeros(51), np.zeros(51)
    target[25] = 5.0
    rewards = np.zeros(51)
    rewards[25] = 1.0
    found = off_policy(rewards, logp, target)
    assert found.value > 0.7 and found.effective_n < 2
    assert found.lower < 0.1


def test_one_reward_for_all_has_an_interval_too():
    """Four effective successes of four: Wilson's lower end is 4 / (4 + 1.96^2)."""
    found = off_policy([1, 0, 1, 1, 1], [0.0] * 5, [0.0, -math.inf, 0.0, 0.0, 0.0])
    assert found.interval == pytest.approx((4 / (4 + 1.959964**2), 1.0))


def test_a_log_that_the_target_would_hardly_make_is_no_division_by_zero():
    """All weights are below the smallest float; the estimate is the plain mean, and the mean weight says what it is."""
    found = off_policy([1, 0, 1, 1], [-1.0] * 4, [-2000.0] * 4)
    assert (found.value, found.effective_n) == (pytest.approx(0.75), pytest.approx(4))
    assert (found.mean_weight, found.lower) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("rewards", "behaviour", "target", "clip", "words"),
    [
        ([1.0], [0.0], [0.0], 10, "three lists of one length"),
        ([1.0, 0.0], [0.0], [0.0, 0.0], 10, "three lists of one length"),
        ([1.5, 0.0], [0.0, 0.0], [0.0, 0.0], 10, "rewards in"),
        ([1.0, 0.0], [0.0, 0.0], [0.0, 0.0], 0.5, "clip >= 1"),
        ([1.0, 0.0], [-math.inf, 0.0], [0.0, 0.0], 10, "finite log-probabilities"),
        ([1.0, 0.0], [0.0, 0.0], [-math.inf, -math.inf], 10, "finite log-probabilities"),
        ([1.0, 0.0], [0.0, 0.0], [math.nan, 0.0], 10, "finite log-probabilities"),
    ],
)
def test_logs_that_say_nothing(rewards, behaviour, target, clip, words):
    with pytest.raises(ValueError, match=words):
        off_policy(rewards, behaviour, target, clip=clip)


# --- how likely a model is to write a rollout

PROMPT = list(range(30, 42))
# Two turns, the second after what the desk said (50, 51); the same with another second answer; another case.
ROLLOUTS = [
    [(PROMPT, [60, 61, 1]), ([*PROMPT, 60, 61, 1, 50, 51], [70, 1])],
    [(PROMPT, [60, 61, 1]), ([*PROMPT, 60, 61, 1, 50, 51], [71, 72, 1])],
    [([*PROMPT[:8], 45], [60, 1])],
    [(PROMPT, [60, 61, 1]), ([*PROMPT, 60, 61, 1, 50, 51], [70, 1])],
]


def by_hand(model, rollout, temperature: float, top_k: int) -> float:
    """One plain forward pass a token."""
    total = 0.0
    for prompt, answer in rollout:
        for n, token in enumerate(answer):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*prompt, *answer[:n]]])).logits[0, -1].double() / temperature
            kept = logits.topk(top_k)
            total += float(logits[token] - kept.values.logsumexp(0)) if token in kept.indices else -math.inf
    return total


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 100), (0.7, 90), (1.0, 3)])
def test_rollouts_are_scored_as_they_are_drawn(temperature, top_k):
    model = tiny_model(2)
    found = log_likelihoods(model, ROLLOUTS, temperature=temperature, top_k=top_k)
    assert found == pytest.approx([by_hand(model, r, temperature, top_k) for r in ROLLOUTS], abs=1e-4)
    assert found[0] == found[3]
    assert np.isfinite(found).any() == (top_k > 3)


def test_what_rollouts_share_is_read_once(monkeypatch):
    """Twelve tokens of the prompt (eight of them the other case's too), 60 and 61 and what follows, once; a last token
    of an answer predicts nothing, except where the next turn goes on from it."""
    model, read = tiny_model(2), []
    inner = model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda *a, **k: (read.append(k["input_ids"].numel()), inner(*a, **k))[1]
    )
    log_likelihoods(model, ROLLOUTS)
    assert read == [12 + 3 + 2 + len([70]) + len([71, 72]) + len([45, 60])]
    assert model.config._attn_implementation != tree.ATTENTION  # put back


def test_texts_that_part_at_any_depth():
    laid = tree.Tree.of_texts([[1, 2, 3, 4], [1, 2], [1, 2, 3, 5, 6], [7], [1, 2, 3, 4]], [[3, 0], [1], [4], [0], [2]])
    paths = {tuple(ids): parent for ids, parent in laid.segments}
    assert set(paths) == {(1, 2), (3,), (4,), (5, 6), (7,)}
    segment = lambda *ids: [ids == tuple(of) for of, _ in laid.segments].index(True)
    assert (paths[3,], paths[4,], paths[5, 6], paths[7,]) == (segment(1, 2), segment(3), segment(3), None)
    assert laid.scored == [
        (segment(4), 0), (segment(1, 2), 0), (segment(1, 2), 1), (segment(5, 6), 1), (segment(7), 0), (segment(3), 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rollouts", "options"),
    [([], {}), ([[]], {}), (ROLLOUTS, {"temperature": 0.0}), (ROLLOUTS, {"top_k": 0})],
)
def test_rollouts_that_cannot_be_scored(rollouts, options):
    with pytest.raises(ValueError, match="one or more rollouts with a turn each|temperature > 0 and top_k >= 1"):
        log_likelihoods(tiny_model(2), rollouts, **options)


def test_a_head_that_scales_is_refused():
    model = tiny_model(2)
    model.config.logit_scale = 2.0
    with pytest.raises(ValueError, match="scales its logits"):
        log_likelihoods(model, ROLLOUTS)
    with pytest.raises(ValueError, match="scales its logits"):
        kl_from(tiny_model(2), model, ROLLOUTS)


def kl_by_hand(policy, reference, rollout) -> float:
    """One plain forward pass a token, and the sum over all tokens of the vocabulary."""
    total = 0.0
    for prompt, answer in rollout:
        for n in range(len(answer)):
            ids = torch.tensor([[*prompt, *answer[:n]]])
            with torch.inference_mode():
                p, q = (m(input_ids=ids).logits[0, -1].double().log_softmax(-1) for m in (policy, reference))
            total += float((p.exp() * (p - q)).sum())
    return total


def test_the_distance_of_two_policies_at_each_written_token():
    policy, reference = tiny_model(2), tiny_model(3)
    nats, tokens = kl_from(policy, reference, ROLLOUTS)
    assert nats == pytest.approx([kl_by_hand(policy, reference, r) for r in ROLLOUTS], rel=1e-4)
    assert tokens.tolist() == [5, 6, 2, 5] and nats[0] == nats[3] and (nats > 0).all()
    assert kl_from(policy, policy, ROLLOUTS)[0] == pytest.approx([0] * 4, abs=1e-5)
    assert {m.config._attn_implementation for m in (policy, reference)} != {tree.ATTENTION}  # put back


def test_the_distance_of_more_rollouts_than_one_pass_holds(monkeypatch):
    policy, reference = tiny_model(2), tiny_model(3)
    whole = kl_from(policy, reference, ROLLOUTS)[0]
    monkeypatch.setattr("ftlib.offline.ROLLOUTS_A_PASS", 2)
    assert kl_from(policy, reference, ROLLOUTS)[0] == pytest.approx(whole, rel=1e-5)


def test_a_log_answers_for_the_cases_it_has():
    model = tiny_model(2)
    log = RolloutLog(["a", "a", "b", "a"], [1, 0, 1, 1], ROLLOUTS, log_likelihoods(model, ROLLOUTS, top_k=100))
    assert log.ask(model, ["c"]) == {}
    of_a = log.ask(model, ["a", "c"], top_k=100)
    assert list(of_a) == [0, 1, 3]
    found = log.estimate(of_a, log.ask(model, ["b"], top_k=100))  # the policy that made them: the plain mean
    assert (found.value, found.n) == (pytest.approx(0.75), 4)
    assert (found.effective_n, found.mean_weight) == (pytest.approx(4, abs=1e-4), pytest.approx(1, abs=1e-4))
    with pytest.raises(ValueError, match="got 1, 1, 1 and 0"):
        RolloutLog(["a"], [1], ROLLOUTS[:1], [])


def test_the_estimate_finds_a_policy_that_was_never_run():
    """Three answers; the log's policy and the target are two models, so the truth is known by their own chances."""
    behaviour, target = tiny_model(2), tiny_model(3)
    answers = [[60], [61], [62]]
    chances = {}
    for name, model in (("behaviour", behaviour), ("target", target)):
        logp = log_likelihoods(model, [[(PROMPT, answer)] for answer in answers], top_k=100, temperature=4.0)
        chances[name] = np.exp(logp) / np.exp(logp).sum()  # of the three alone
    drawn = np.random.default_rng(1).choice(3, size=4000, p=chances["behaviour"])
    turns = [[(PROMPT, answers[n])] for n in drawn]
    rewards = (drawn == 0).astype(float)
    scored = [log_likelihoods(model, turns, top_k=100, temperature=4.0) for model in (behaviour, target)]
    found = RolloutLog(["a"] * 4000, rewards, turns, scored[0]).estimate(dict(enumerate(scored[1])))
    truth = chances["target"][0]
    assert abs(truth - rewards.mean()) > 0.02  # the two policies do differ
    assert found.interval.low <= truth <= found.interval.high and found.effective_n > 1000
