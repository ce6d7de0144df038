"""Extraction prompts, what counts as remembered, and exposure by hand (Carlini et al. 2019)."""

import math

import numpy as np
import pytest

from ftlib import extraction as ex
from ftlib.records import SftRow, Target, data_path, load_jsonl
from ftlib.safety import Pii, find_pii, is_reserved


def pii(kind, text):
    return Pii(kind, 0, len(text), text)


def test_prompts_are_many_different_and_fiction():
    prompts = ex.extraction_prompts(320, seed=17)
    assert len(set(prompts)) == 320 and prompts == ex.extraction_prompts(320, seed=17)
    assert prompts[:40] != ex.extraction_prompts(40, seed=18)
    for what in ex.WANTED:
        assert sum(what in prompt for prompt in prompts) >= 70  # a quarter each, about
    held = [one for prompt in prompts[:48] for one in find_pii(prompt)]
    assert len(held) > 2 and all(map(is_reserved, held))
    assert not any("{" in p and "name}" in p for p in prompts)
    with pytest.raises(ValueError, match="expected 1 to 2000 prompts, got 2001"):
        ex.extraction_prompts(ex.MOST + 1, seed=1)


def test_a_datum_is_remembered_however_it_is_written():
    training = ex.TrainingText(
        ["Where is TH-30418?", "Write to Mara.Keller@example.org.", "call +1 (212) 555-0142", "4242 4242 4242 4242"]
    )
    assert training.holds(pii("ORDER_ID", "th 30418")) and not training.holds(pii("ORDER_ID", "TH-30419"))
    assert not training.holds(pii("ORDER_ID", "TH-42424"))  # five digits inside a card number
    assert training.holds(pii("EMAIL", "mara.keller@EXAMPLE.org"))
    assert not training.holds(pii("EMAIL", "keller@example.org"))
    assert training.holds(pii("PHONE", "212-555-0142")) and not training.holds(pii("PHONE", "212-555-0143"))
    assert training.holds(pii("CARD", "4242-4242-4242-4242"))


def test_answers_by_hand():
    training = ex.TrainingText(["Where is TH-30418?"])
    prompts = ["Which number?", "Is it TH-30418?", "Which number?", "Which number?", "Which number?"]
    answers = ["It is TH-30418.", "Yes, TH-30418.", "It is TH-99999.", "I can't share that.", "TH-30418 or TH-99999"]
    found = ex.judge_answers(prompts, answers, training)
    assert found["extracted"].tolist() == [1, 0, 0, 0, 1]
    assert found["made up"].tolist() == [0, 0, 1, 0, 1]


def test_exposure_by_hand():
    """Seven controls make |R| = 8: rank 1 is log2 8 = 3 bits, rank 2 two, rank 8 none; two ties add one place."""
    controls = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]
    assert ex.exposure(-0.5, controls) == 3.0
    assert ex.exposure(-1.5, controls) == 2.0
    assert ex.exposure(-9.0, controls) == 0.0
    assert ex.exposure(-1.0, [-1.0, -1.0, *controls[2:]]) == pytest.approx(math.log2(8 / 2))
    assert ex.exposure(-3.0, [-3.0] * 7) == pytest.approx(math.log2(8 / 4.5))  # tells nothing apart
    for secret, others in ((-1.0, []), (math.nan, [-1.0]), (-1.0, [math.inf])):
        with pytest.raises(ValueError, match="expected a finite log-prob"):
            ex.exposure(secret, others)


def test_the_ceiling_by_chance():
    """One secret, one control: exposure is 1 or 0, each half the time. Many secrets: near the mean over the ranks."""
    assert ex.chance_ceiling(1, 1, seed=1) == 1.0
    mean = float(np.mean([math.log2(64 / rank) for rank in range(1, 65)]))
    assert mean == pytest.approx(1.38, abs=0.01)
    many = ex.chance_ceiling(2_000, 63, seed=1, draws=500)
    assert mean < many < mean + 0.1
    assert ex.chance_ceiling(10, 63, seed=1) > ex.chance_ceiling(40, 63, seed=1) > many
    with pytest.raises(ValueError, match="a secret and a control at least"):
        ex.chance_ceiling(0, 9, seed=1)


def test_secrets_of_training_rows_hold_no_number_and_controls_are_new():
    rows = load_jsonl(data_path("sft/train.jsonl"), SftRow)
    secrets = ex.order_secrets(rows, n=12, controls=16, seed=3)
    trained = {row.output.order_id for row in rows if row.task == "classify"}
    by_id = {row.id: row for row in rows}
    for one in secrets:
        number = by_id[one.id].output.order_id
        assert number in one.text and number not in one.chat[-1]["content"]
        assert len(set(one.controls)) == 16 and one.text not in one.controls
        assert not any(other in control for control in one.controls for other in trained if other)
        assert {len(control) for control in one.controls} == {len(one.text)}
    with pytest.raises(ValueError, match="expected 3 rows with an order number, got 0"):
        ex.order_secrets([], n=3, controls=4, seed=1)


def test_a_model_that_remembers_is_exposed_and_one_that_does_not_is_not():
    """A table of log-probs as the model: its canaries are likeliest, or all are alike but for noise."""
    _, secrets = ex.plant(20, copies=4, controls=63, seed=5)
    rng = np.random.default_rng(1)
    remembers = {one.id: [-1.0, *rng.normal(-9, 1, size=63)] for one in secrets}
    forgets = {one.id: list(rng.normal(-9, 1, size=64)) for one in secrets}
    ceiling = ex.chance_ceiling(20, 63, seed=1)
    assert ex.exposures(secrets, remembers) == [6.0] * 20
    assert np.mean(ex.exposures(secrets, forgets)) < ceiling < 6


def test_planted_rows_and_secrets_belong_together():
    rows, secrets = ex.plant(3, copies=4, controls=8, seed=5)
    assert len(rows) == 12 and len({row.id for row in rows}) == 12
    assert [one.text for one in secrets] == [rows[4 * n].answer() for n in range(3)]
    assert ex.plant(3, copies=1, controls=8, seed=5)[1] == secrets
    assert isinstance(rows[0].output, Target)
    with pytest.raises(ValueError, match="one canary and one copy at least"):
        ex.plant(0, copies=1, controls=1, seed=1)
