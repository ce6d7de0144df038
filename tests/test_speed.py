"""The speed benchmark's arithmetic, by hand; and one small case run for real, stock beside ours."""

import pytest

from benchmarks import speed
from benchmarks.cases import in_process, sampling, training


def results(*pairs: tuple[float, float], **more) -> list[dict]:
    return [{"tokens": t, "seconds": s, "peak_rss_mb": 100 * s, "dtype": "fp32"} | more for t, s in pairs]


RATE = lambda result: result["tokens"] / result["seconds"]


def test_the_ratio_is_of_medians_and_its_spread_of_pairs():
    """Stock 10 and 20 tokens/s, ours 40 and 50: medians 15 and 45; pairs 4 and 2.5."""
    found = {"stock": results((10, 1), (20, 1)), "ours": results((40, 1), (100, 2))}
    value, spread = speed._ratio(found, RATE)
    assert value == pytest.approx(3.0) and spread == [2.5, 4.0]


def test_a_row_says_rates_spread_and_memory():
    found = {"stock": results((10, 1), (20, 1)), "ours": results((40, 1), (100, 2))}
    row = speed._row("sampling", found, "tokens", RATE)
    assert row["stock_tokens_a_second"] == 15 and row["ours_spread"] == [40, 50]
    assert row["ours_peak_mb"] == 150 and row["ratio"] == pytest.approx(3.0)


def test_products_count_what_went_through_the_model():
    """1,000 tokens through the body, 100 of them new: 212.4 + 5.66 GFLOP in two seconds."""
    found = {"ours": [{"passed_tokens": 1000, "tokens": 100, "seconds": 2.0}]}
    assert speed._products(found)["ours_gflop_a_second"] == pytest.approx((212.4 + 5.66) / 2)


@pytest.mark.parametrize("dtype, holds", [("fp32", False), ("bf16", True)])
def test_losses_are_compared_with_the_reference(dtype, holds):
    """2.000 against 2.002 is a part in a thousand: too much in fp32, rounding in bf16; gradients are the same."""
    ours = {"dtype": dtype, "losses": [0.5, 2.002], "grad_norms": [1.0, 1.0]}
    losses, norms = speed._same_course("sft", ours, {"losses": [0.5, 2.0], "grad_norms": [1.0, 1.0]})
    assert losses["value"] == pytest.approx(0.001) and losses["holds"] is holds and losses["n"] == 2
    assert norms["value"] == 0 and norms["holds"]


def test_mixed_prompts_are_of_many_lengths_and_the_same_for_a_seed():
    mixed = sampling.chats(64, mixed=True, seed=3)
    lengths = sorted(len(chat[-1]["content"]) for chat in mixed)
    assert len(mixed) == 64 and mixed == sampling.chats(64, mixed=True, seed=3)
    assert lengths[-1] > 5 * lengths[0]
    assert any(len(chat) > 2 for chat in mixed) and any(len(chat) == 2 for chat in mixed)


def test_a_case_in_a_process_of_its_own():
    """Four prompts and three tokens, stock and ours: the same greedy tokens, and what the table needs."""
    options = {"size": 4, "mixed": True, "drawn": False, "batch": 2, "new_tokens": 3}
    stock, ours = (in_process("sampling", variant, **options) for variant in ("stock", "ours"))
    assert ours["ids"] == stock["ids"] or max(sampling.gaps(stock["ids"], ours["ids"], size=4, mixed=True)) < 0.25
    assert ours["passed_tokens"] < stock["passed_tokens"]  # no padding
    assert ours["tokens"] == sum(map(len, ours["ids"])) <= 12
    assert ours["seconds"] > 0 and ours["peak_rss_mb"] > 100


def test_a_case_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"benchmark case sampling, ours, .*KeyError|TypeError"):
        in_process("sampling", "ours", size=1, mixed=True, drawn=False, batch=1, colour="red")


@pytest.mark.parametrize("kind, nf4", [("sft", False), ("dpo", True), ("grpo", False)])
def test_training_takes_the_course_of_trls_trainer(kind, nf4, monkeypatch):
    """Losses and gradient norms of a small random model, ours against TRL as it comes, on the benchmark's own rows."""
    for name, value in {"STEPS": 3, "PAIRS": 8, "EPOCHS": 2, "CASES": 4, "ROLLOUTS": 2, "GRPO_STEPS": 1}.items():
        monkeypatch.setattr(training, name, value)
    ours, reference = (training.run(v, kind=kind, nf4=nf4, weights="2m") for v in ("ours", "reference"))
    losses, norms = speed._same_course(kind, ours, reference)
    assert losses["n"] == {"sft": 3, "dpo": 2, "grpo": 1}[kind]
    assert losses["holds"] and norms["holds"], (losses, norms)
    assert max(reference["grad_norms"]) > 0
