"""The scorecard: scores worked by hand, rules apart from scores, nothing good ever punished, flips that are exact."""

import dataclasses
import math

import pytest

from ftlib import scorecard
from ftlib.criteria import CRITERIA, FITS, METHODS, TRAINED, WEIGHTS, anchor, fit
from ftlib.scorecard import Answers, Limits, contributions, fired_rules, flips, recommend, swings

# Every fit below sits on a point of the table, so that the arithmetic can be redone by hand.
ON_POINTS = Answers(500, 400, "yes", "judgement", "medium", 1.0, "tools")

CASES = {
    "shop": (Answers(), "SFT -> DPO -> RFT", set()),
    "document classification": (
        Answers(3000, 0, "yes", "format", "low", 4.0, "single"),
        "SFT",
        {"no_preference_pairs"},
    ),
    "refusal policy": (
        Answers(200, 800, "no", "judgement", "high", 2.0, "single"),
        "SFT -> DPO",
        {"no_computable_reward", "safety_needs_contrast"},
    ),
    "tool agent": (Answers(100, 0, "yes", "format", "medium", 8.0, "tools"), "SFT -> RFT", {"no_preference_pairs"}),
    "compliance": (
        Answers(600, 50, "partly", "judgement", "high", 8.0, "dialogue"),
        "Prompt first",
        {"no_preference_pairs", "tuning_undoes_safety"},
    ),
    "do not train": (
        Answers(10, 0, "yes", "none", "low", 0.5, "single"),
        "Prompt first",
        {"no_labelled_pairs", "no_warm_start", "no_preference_pairs"},
    ),
}


def names(rules) -> set[str]:
    return {rule.name for rule in rules}


# --- scores ---


def test_scores_by_hand():
    """score = 50 + 50 * sum(w f) / sum(w) over the criteria that concern the method.

    prompt: 3(-0.6) + 3(-0.6) + 2(0) + 2(0.2) + 2(-0.5)         = -4.2 of 12 -> 50 - 17.5
    sft:    3(0.8) + 3(0) + 2(0.1) + 2(0.5) + 2(0)              =  3.6 of 12 -> 50 + 15
    dpo:    3(0.5) + 3(0.5) + 3(1) + 2(0.3) + 2(0.3) + 2(0)     =  7.2 of 15 -> 50 + 24
    rft:    3(0.3) + 3(1) + 3(0.3) + 2(0) + 2(0) + 2(1)         =  6.8 of 15 -> 50 + 22.67
    """
    scores = recommend(ON_POINTS).scores
    assert scores == pytest.approx({"prompt": 32.5, "sft": 65.0, "dpo": 74.0, "rft": 50 + 50 * 6.8 / 15})


def test_contributions_sum_to_the_score():
    decision = recommend(ON_POINTS)
    for method in METHODS:
        assert 50 + sum(decision.contributions[method].values()) == pytest.approx(decision.scores[method])
    assert decision.contributions["dpo"]["alignment_depth"] == pytest.approx(50 * 3 * 1.0 / 15)
    assert "preference_pairs" not in decision.contributions["sft"]  # says nothing about SFT


def test_only_the_proportions_of_weights_matter():
    doubled = {name: 2 * weight for name, weight in WEIGHTS.items()}
    assert recommend(ON_POINTS, weights=doubled).scores == pytest.approx(recommend(ON_POINTS).scores)


def test_a_weight_of_zero_silences_its_answer():
    weights = WEIGHTS | {"horizon": 0.0}
    scores = [
        recommend(dataclasses.replace(ON_POINTS, horizon=one), weights=weights).scores for one in ("single", "tools")
    ]
    assert scores[0] == pytest.approx(scores[1])
    assert scores[0] != pytest.approx(recommend(ON_POINTS).scores)


def test_counts_are_read_on_a_log_scale():
    assert fit("sft", "labelled_pairs", 500) == 0.8
    middle = math.expm1((math.log1p(200) + math.log1p(500)) / 2)
    assert fit("sft", "labelled_pairs", middle) == pytest.approx(0.65)  # halfway between 0.5 and 0.8
    assert fit("sft", "labelled_pairs", 10**9) == 1.0
    assert fit("sft", "preference_pairs", 5) is None


@pytest.mark.parametrize(("answers", "path", "rules"), CASES.values(), ids=CASES)
def test_worked_cases(answers, path, rules):
    decision = recommend(answers)
    assert decision.recommendation == path
    assert names(decision.rules) == rules


# --- more of a good thing ---

MORE = [
    ("sft", "labelled_pairs"),
    ("dpo", "labelled_pairs"),
    ("rft", "labelled_pairs"),
    ("dpo", "preference_pairs"),
    ("rft", "reward_computable"),
    *((method, "compute_hours") for method in TRAINED),
]


@pytest.mark.parametrize(("method", "name"), MORE)
@pytest.mark.parametrize("start", [case[0] for case in CASES.values()], ids=CASES)
def test_more_of_a_good_thing_never_lowers_its_method(method, name, start):
    if CRITERIA[name].kind == "choice":
        values = [level.at for level in CRITERIA[name].levels]
    else:
        scale = 1 if CRITERIA[name].kind == "count" else 0.05
        values = [n * scale for n in (0, 1, 3, 10, 49, 50, 51, 99, 100, 130, 199, 400, 999, 2000, 2001, 9000, 10**6)]
    decisions = [recommend(dataclasses.replace(start, **{name: value})) for value in values]
    scores = [decision.scores[method] for decision in decisions]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]
    # No rule comes into force against the method because there is more of it.
    out = [any(method in rule.methods and rule.effect == "out" for rule in d.rules) for d in decisions]
    assert out == sorted(out, reverse=True)


def test_more_labelled_pairs_never_speak_for_staying_at_a_prompt():
    scores = [recommend(dataclasses.replace(ON_POINTS, labelled_pairs=n)).scores["prompt"] for n in range(0, 3000, 25)]
    assert scores == sorted(scores, reverse=True)


def test_every_fit_lies_within_one_and_covers_its_levels():
    for table in FITS.values():
        for name, one in table.items():
            values = list(one.values()) if isinstance(one, dict) else [y for _, y in one]
            assert all(-1 <= value <= 1 for value in values)
            if isinstance(one, dict):
                assert list(one) == [level.at for level in CRITERIA[name].levels]
            else:
                assert one[0][0] == 0
                assert [x for x, _ in one] == sorted({x for x, _ in one})


# --- rules ---


def test_no_weight_votes_a_rule_down():
    answers = dataclasses.replace(ON_POINTS, reward_computable="no")
    weights = dict.fromkeys(WEIGHTS, 0.001) | {"horizon": 1000.0}  # all for RFT
    decision = recommend(answers, weights=weights)
    assert decision.scores["rft"] > 99
    assert "rft" not in decision.path
    assert "no_computable_reward" in names(decision.rules)


@pytest.mark.parametrize(
    ("change", "rule", "methods"),
    [
        ({"labelled_pairs": 49}, "no_labelled_pairs", ("sft",)),
        ({"labelled_pairs": 49}, "no_warm_start", ("dpo", "rft")),
        ({"preference_pairs": 99}, "no_preference_pairs", ("dpo",)),
        ({"reward_computable": "no"}, "no_computable_reward", ("rft",)),
        ({"compute_hours": 0.09}, "sft_needs_compute", ("sft",)),
        ({"compute_hours": 0.19}, "dpo_needs_compute", ("dpo",)),
        ({"compute_hours": 0.49}, "rft_needs_compute", ("rft",)),
    ],
)
def test_each_rule_fires_below_its_limit_and_not_at_it(change, rule, methods):
    fired = {one.name: one for one in fired_rules(dataclasses.replace(ON_POINTS, **change))}
    assert fired[rule].methods == methods
    assert fired[rule].effect == "out"
    assert fired[rule].remedy
    at_the_limit = Answers(50, 100, "partly", "judgement", "medium", 0.5, "tools")
    assert fired_rules(at_the_limit) == ()


def test_a_prompt_that_surely_reaches_the_target_makes_sft_needless():
    assert "sft" in recommend(ON_POINTS, few_shot_low=0.849).path
    decision = recommend(ON_POINTS, few_shot_low=0.85)
    assert "sft" not in decision.path
    assert "prompt_reaches_target" in names(decision.rules)
    assert "sft" in recommend(ON_POINTS, few_shot_low=0.85, limits=Limits(target_accuracy=0.9)).path


def test_a_high_safety_class_trains_nothing_that_dpo_cannot_repair():
    high = dataclasses.replace(ON_POINTS, safety_class="high")
    assert recommend(dataclasses.replace(high, preference_pairs=99)).path == ()
    assert "dpo" in recommend(dataclasses.replace(high, preference_pairs=100)).path


def test_dpo_joins_a_high_safety_path_even_where_it_scores_low():
    answers = Answers(2000, 100, "no", "format", "high", 1.0, "single")
    decision = recommend(answers)
    assert decision.scores["dpo"] < Limits().score_to_join
    assert decision.path == ("sft", "dpo")
    assert "safety_needs_contrast" in names(decision.rules)


def test_sft_joins_as_a_warm_start_where_it_scores_low():
    answers = dataclasses.replace(ON_POINTS, labelled_pairs=100)
    decision = recommend(answers)
    assert decision.scores["sft"] < Limits().score_to_join
    assert decision.path[0] == "sft"
    assert "warm_start" in names(decision.rules)


# --- sensitivity ---


def test_flips_of_counts_are_exact():
    """At 99 preference pairs the rule takes DPO out, at 100 it does not: the flip from 400 downwards is 99."""
    found = {(flip.criterion, flip.value): flip for flip in flips(Answers())}
    flip = found["preference_pairs", 99]
    assert flip.path == ("sft", "rft")
    assert flip.sentence() == "preference_pairs from 400 to 99: the path becomes SFT -> RFT"
    assert found["reward_computable", "no"].path == ("sft", "dpo")
    assert found["compute_hours", 0.49].path == ("sft", "dpo")


@pytest.mark.parametrize("answers", [case[0] for case in CASES.values()], ids=CASES)
def test_a_flip_changes_the_path_and_the_step_before_it_does_not(answers):
    path = recommend(answers).path
    for flip in flips(answers):
        at = recommend(dataclasses.replace(answers, **{flip.criterion: flip.value})).path
        assert at == flip.path != path
        if CRITERIA[flip.criterion].kind == "count":
            back = flip.value + (1 if flip.value < flip.now else -1)
            assert recommend(dataclasses.replace(answers, **{flip.criterion: back})).path == path


def test_where_everything_speaks_against_training_no_single_answer_flips():
    assert flips(CASES["do not train"][0]) == []


def test_flips_use_the_measured_prompt_and_the_limits():
    strict = flips(Answers(), limits=Limits(preference_pairs=300))
    assert ("preference_pairs", 299) in {(flip.criterion, flip.value) for flip in strict}


def test_swings_contain_the_present_lead_and_match_by_hand():
    """reward_computable moves RFT by 3 * (1 - (-1)) of 15 -> 20 points, and prompting by nothing."""
    found = swings(ON_POINTS, "rft")
    lead = recommend(ON_POINTS).scores["rft"] - recommend(ON_POINTS).scores["prompt"]
    assert all(low - 1e-9 <= lead <= high + 1e-9 for low, high in found.values())
    low, high = found["reward_computable"]
    assert high == pytest.approx(lead)
    assert high - low == pytest.approx(20.0)
    assert found["preference_pairs"] == pytest.approx((lead, lead))


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labelled_pairs": -1}, "labelled_pairs: expected 0 or more, got -1"),
        ({"labelled_pairs": 2.5}, "labelled_pairs: expected a whole number, got 2.5"),
        ({"labelled_pairs": True}, "labelled_pairs: expected a whole number, got True"),
        ({"compute_hours": math.nan}, "compute_hours: expected 0 or more, got nan"),
        ({"compute_hours": "4"}, "compute_hours: expected a number of hours, got '4'"),
        ({"horizon": "long"}, "horizon: expected one of single, dialogue, tools, got 'long'"),
        ({"safety_class": None}, "safety_class: expected one of low, medium, high, got None"),
    ],
)
def test_bad_answers_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Answers(**change)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS | {"horizont": 1.0}, r"weights name 'horizont', which is no criterion \(did you mean 'horizon'"),
        ({"horizon": 1.0}, r"weights\['labelled_pairs'\]: expected a number >= 0, got None"),
        (WEIGHTS | {"horizon": -1}, r"weights\['horizon'\]: expected a number >= 0, got -1"),
        (WEIGHTS | {"horizon": math.inf}, r"weights\['horizon'\]: expected a number >= 0, got inf"),
        (dict.fromkeys(WEIGHTS, 0.0), "all criteria of Prompt first weigh 0"),
    ],
)
def test_bad_weights_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        contributions(ON_POINTS, weights=weights)


def test_anchor_of_a_count_is_the_level_it_falls_into():
    assert anchor("labelled_pairs", 199).at == 50
    assert anchor("labelled_pairs", 200).at == 200
    assert anchor("horizon", "tools").anchor.startswith("Several steps")
    with pytest.raises(ValueError, match="criterion 'horizont' is not known"):
        anchor("horizont", "tools")
    with pytest.raises(ValueError, match="horizon: 'long' is no level; use one of single"):
        anchor("horizon", "long")


# --- the form ---


def test_the_form_gives_back_what_was_set_and_calls_back():
    from ftlib.widgets import scorecard_widget

    heard = []
    card = scorecard_widget(Answers(), on_change=lambda answers, weights: heard.append((answers, weights)))
    assert card.answers == Answers()
    assert card.weights == WEIGHTS
    assert "SFT → DPO → RFT" in card.result.value
    card.controls["reward_computable"].value = "no"
    assert card.answers.reward_computable == "no"
    assert card.decision.path == ("sft", "dpo")
    assert "no_computable_reward" in card.result.value
    card.sliders["horizon"].value = 4.0
    assert [len(heard), heard[-1]] == [2, (Answers(reward_computable="no"), WEIGHTS | {"horizon": 4.0})]


def test_the_form_says_what_is_wrong_with_the_weights_and_goes_on():
    from ftlib.widgets import scorecard_widget

    card = scorecard_widget(Answers(), weights=dict.fromkeys(WEIGHTS, 0.0) | {"horizon": 1.0})
    card.sliders["horizon"].value = 0.0
    assert "weigh 0" in card.result.value
    card.sliders["horizon"].value = 1.0
    assert "weigh 0" not in card.result.value


def test_scorecard_is_a_light_room():
    import subprocess
    import sys

    code = "import sys, ftlib.scorecard; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert scorecard.path_label(()) == "Prompt first"
