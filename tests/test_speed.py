"""The speed benchmark's arithmetic, by hand; and one small case run for real, stock beside ours."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command
from benchmarks import check, speed
from benchmarks.cases import in_process, mflop_a_token, sampling, training


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
    row = speed._row("sampling", found, "tokens", RATE, stock="generate")
    assert row["stock"] == "generate"
    assert row["stock_tokens_a_second"] == 15 and row["ours_spread"] == [40, 50]
    assert row["ours_peak_mb"] == 150 and row["ratio"] == pytest.approx(3.0)
    assert "ours_peak_gpu_mb" not in row
    on_gpu = {name: results((10, 1), (20, 1), peak_gpu_mb=7) for name in ("stock", "ours")}
    assert speed._row("sampling", on_gpu, "tokens", RATE, stock="generate")["stock_peak_gpu_mb"] == 7


def test_products_of_a_token_by_hand():
    """Two layers of 128 x (12 x 32 + 3 x 256) weights, a head of 128 x 1,000; two operations a weight."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 1000}
    config = SimpleNamespace(**shape, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
    expected = {"mflop_body": pytest.approx(0.589824), "mflop_head": pytest.approx(0.256)}
    assert mflop_a_token(config) == expected
    del config.head_dim  # 128 / 4
    assert mflop_a_token(config) == expected


A_TOKEN = {"mflop_body": 200.0, "mflop_head": 50.0}


def test_products_count_what_went_through_the_model():
    """1,000 tokens through the body, 100 of them new: 200 + 5 GFLOP in two seconds; the machine could do 410 in one."""
    found = {"ours": [{"passed_tokens": 1000, "tokens": 100, "seconds": 2.0} | A_TOKEN]}
    row = speed._products(found)
    assert row == {"ours_gflop_a_second": pytest.approx(102.5)}
    assert speed._with_shares(row, {"gflop_a_second": 410.0})["ours_share_of_ceiling"] == pytest.approx(0.25)
    assert speed._with_shares({"what": "growth"}, {"gflop_a_second": 410.0}) == {"what": "growth"}


def test_a_training_is_measured_by_what_it_must_compute():
    """1,000 tokens through the layers, 100 through the head, in two seconds, as above."""
    found = {"stock": [{"body": 1000, "head": 100, "seconds": 2.0} | A_TOKEN]}
    assert speed._products(found, body="body", head="head")["stock_gflop_a_second"] == pytest.approx(102.5)


def test_a_benchmark_that_is_stopped_leaves_what_it_has(tmp_path, monkeypatch, capsys):
    """The first part is in the JSON when the second one is at work."""

    def measure():
        yield {"rows": [{"what": "first"}], "checks": []}
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        command.main(["speed", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["name"], found["rows"]) == ("speed", [{"what": "first"}]) and found["device"]


def test_a_part_that_fails_is_said_and_the_next_one_is_measured(monkeypatch):
    """A full GPU in one part: its error is a row, a check does not hold, and the minutes stand beside it."""

    def full():
        raise RuntimeError("CUDA out of memory")

    full.__name__ = "_sampling"
    for part in ("_training", "_library", "_growth"):
        monkeypatch.setattr(speed, part, lambda: ([], []))
    monkeypatch.setattr(speed, "_sampling", full)
    monkeypatch.setattr(speed, "_minutes", lambda: ([{"what": "notebook"}], []))
    monkeypatch.setattr(speed, "in_process", lambda *_, **__: {"gflop_a_second": 1.0})
    *_, found = speed.measure()
    assert found["rows"] == [{"what": "notebook"}, {"what": "sampling", "error": "CUDA out of memory"}]
    assert [(row["id"], row["holds"]) for row in found["checks"]] == [("sampling_measured", False)]
    assert speed.figures(found) == {}


def test_growth_on_a_gpu_is_growth_of_its_memory(monkeypatch):
    case = {"seconds": 1.0, "tokens": 10, "parameters": 2, "peak_rss_mb": 900, "peak_gpu_mb": 70}
    monkeypatch.setattr(speed, "in_process", lambda *_, **__: case)
    assert {row["peak_mb"] for row in speed._growth()[0]} == {70}


@pytest.mark.parametrize("dtype, holds", [("fp32", False), ("bf16", True)])
def test_losses_are_compared_with_the_reference(dtype, holds):
    """2.000 against 2.002 is a part in a thousand: too much in fp32, rounding in bf16; gradients are the same."""
    ours = {"dtype": dtype, "losses": [0.5, 2.002], "grad_norms": [1.0, 1.0]}
    losses, norms = speed._same_course("sft", ours, {"losses": [0.5, 2.0], "grad_norms": [1.0, 1.0]})
    assert losses["value"] == pytest.approx(0.001) and losses["holds"] is holds and losses["n"] == 2
    assert norms["value"] == 0 and norms["holds"]


def test_more_loss_than_stock_counts_where_it_is_shown():
    """0.1 nats more on each row fails; 0.1 more and less in turn shows nothing; less is no fault."""
    stock = [1.0, 2.0] * 20
    more = speed._as_much_learned("sft", stock, [loss + 0.1 for loss in stock])
    assert more["value"] == pytest.approx(0.1) and not more["holds"] and more["n"] == 40
    assert speed._as_much_learned("sft", stock, [1.1, 1.9] * 20)["holds"]
    assert speed._as_much_learned("sft", stock, [loss - 0.1 for loss in stock])["holds"]


def grown(by: str, seconds: float, **more) -> dict:
    sizes = {"prompts": 100, "tokens": 64, "parameters": 10, "peak_mb": 50}
    return {"what": "growth", "by": by, "seconds": seconds} | sizes | more


ROWS = [
    grown("", 2.0), grown("prompts", 20.0, prompts=1_000), grown("tokens", 12.0, tokens=256, peak_mb=100),
    grown("weights", 40.0, parameters=400),
    {"what": "data_gates", "rows": 10, "seconds": 1.0, "peak_rss_mb": 7}, {"what": "sampling", "losses": [1, 2, 3]},
]  # fmt: skip


def test_growth_is_drawn_as_multiples_of_the_smallest():
    """A thousand prompts: ten times the size and ten times the time; 256 tokens: four times and six times."""
    time, memory = speed.figures({"rows": ROWS}).values()
    lines = {line.name: (list(line.x), list(line.y)) for line in time.data}
    assert lines["prompts"] == ([1, 10], [1, 10]) and lines["tokens of a prompt"] == ([1, 4], [1, 6])
    assert lines["parameters"] == ([1, 40], [1, 20]) and lines["rows of the data gates"] == ([1], [1])
    assert lines["in proportion"][0] == [1, 40]
    assert list(memory.data[1].y) == [1, 2]


def test_the_command_writes_json_and_a_page(tmp_path, monkeypatch, capsys):
    """The page holds checks, rows and figures; texts stay text, and lists of many numbers stay in the JSON."""
    checks = [check("<b>share</b>", 2.0, ">=", 1.0, n=3, spread=[1.5, 2.5])]
    monkeypatch.setattr(speed, "measure", lambda: {"rows": ROWS, "checks": checks})
    assert command.main(["speed", "--out", str(tmp_path / "found.json")]) == 0
    assert "<b>share</b>" in capsys.readouterr().out
    kept, page = json.loads((tmp_path / "found.json").read_text()), (tmp_path / "found.html").read_text()
    assert kept["name"] == "speed" and kept["rows"][-1]["losses"] == [1, 2, 3]
    assert "&lt;b&gt;share" in page and "<b>share" not in page and "losses" not in page.split("</script>")[-1]
    assert page.count('class="plotly-graph-div"') == 2 and "src=" not in page.split("</script>")[-1]


def test_the_page_does_not_take_the_place_of_the_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "measure", lambda: pytest.fail("refused before anything runs"))
    assert command.main(["speed", "--out", str(tmp_path / "found.html")]) == 2
    assert "take .json" in capsys.readouterr().err and not list(tmp_path.iterdir())


def summary_of(**minutes: float) -> dict:
    done = {name: {"status": "complete", "seconds": 60 * m, "peak_rss_mb": 1} for name, m in minutes.items()}
    return {"run_id": "r", "profile": "cpu", "notebooks": done, "metrics": {}, "gates": []}


def test_minutes_are_those_of_the_newest_whole_run(tmp_path, monkeypatch):
    """A later smoke run, a later half run and an older run that was touched last do not count; without any, no row."""
    monkeypatch.setenv("FTLIB_RUNS", str(tmp_path))
    assert speed._minutes() == ([], [])
    names = [path.stem for path in (speed.ROOT / "notebooks").glob("[0-9]*.ipynb")]
    whole = summary_of(**dict.fromkeys(names, 4.0))
    half, old = summary_of(**{names[0]: 1.0}), summary_of(**dict.fromkeys(names, 9.0))
    for day, found in {2: whole, 3: whole | {"profile": "smoke"}, 4: half, 1: old}.items():
        (tmp_path / str(day)).mkdir()
        (tmp_path / str(day) / "run.json").write_text(json.dumps({"created_at": f"2026-11-0{day}T10:00:00+00:00"}))
        (tmp_path / str(day) / "summary.json").write_text(json.dumps(found))
    rows, [total] = speed._minutes()
    assert len(rows) == len(names) == 9 and {row["minutes"] for row in rows} == {4.0}
    assert total["value"] == pytest.approx(36.0) and not total["holds"]


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
    assert ours["body"] > ours["head"] > 0 and (ours["body"], ours["head"]) == (reference["body"], reference["head"])
    if kind != "grpo":
        learned = speed._as_much_learned(kind, reference["held_out"], ours["held_out"])
        assert learned["n"] == training.HELD_OUT and abs(learned["value"]) < 1e-3  # the same rows in the same order
        assert all(loss > 0 for loss in ours["held_out"])
