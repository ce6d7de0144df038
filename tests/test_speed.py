"""The speed benchmark's arithmetic, by hand; and one small case run for real, stock beside ours."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command
from benchmarks import check, speed
from benchmarks.cases import in_process, mflop_a_token, sampling, training, turns
from ftlib.records import ProductionPrompt


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


def test_a_rate_of_weights_read_is_a_share_of_a_copy():
    """Forty passes over half a GB in ten seconds: 2 GB/s, a quarter of 8; what a GPU's passes read is not known."""
    row = speed._reads({"stock": [{"weights_read_gb": None}], "ours": [{"weights_read_gb": 20.0, "seconds": 10.0}]})
    assert row == {"ours_gb_a_second": 2.0}
    found = speed._with_shares(row | {"stock_gflop_a_second": 5.0}, {"gflop_a_second": 50.0, "gb_a_second": 8.0})
    assert found == row | {
        "stock_gflop_a_second": 5.0, "ours_share_of_copy": 0.25, "stock_share_of_ceiling": 0.1
    }  # fmt: skip


def test_a_pass_reads_all_weights_but_a_table_of_input_vectors():
    """Two products of 3 x 4 numbers of four bytes; beside a head of its own the table does not count."""
    import torch

    embedding, head = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)

    class Model(torch.nn.Module):
        def __init__(self, tied):
            super().__init__()
            self.table, self.head = embedding, torch.nn.Linear(3, 4, bias=False) if not tied else head
            self.body = torch.nn.Linear(3, 4, bias=False)
            if tied:
                self.head.weight = embedding.weight

        def get_input_embeddings(self):
            return self.table

        def get_output_embeddings(self):
            return self.head

    assert sampling._gb(Model(tied=False)) == sampling._gb(Model(tied=True)) == pytest.approx(2 * 12 * 4 / 1e9)


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
    for part in ("_turns", "_training", "_library", "_growth"):
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
    reference = {"losses": [0.5, 2.0], "grad_norms": [1.0, 1.0]}
    of = {line["id"]: line for line in speed._same_course("sft", ours, reference, reference)}
    losses, norms = of["sft_losses_vs_fp32"], of["sft_grad_norms_vs_fp32"]
    assert losses["value"] == pytest.approx(0.001) and losses["holds"] is holds and losses["n"] == 2
    assert norms["value"] == 0 and norms["holds"]


@pytest.mark.parametrize("at, holds", [(2.09, True), (1.89, False)])
def test_beside_trl_in_the_same_dtype_no_more_than_the_dtype_itself(at, holds):
    """bf16 alone moves the second loss from 2.0 to 2.06, a share of 0.03; ours may be 0.03 of 2.06 away from that."""
    course = lambda loss: {"dtype": "bf16", "losses": [0.5, loss], "grad_norms": [1.0, 1.0]}
    of = {line["id"]: line for line in speed._same_course("sft", course(at), course(2.06), course(2.0))}
    assert len(of) == 4 and of["sft_losses_vs_trl"]["holds"] is holds and not of["sft_losses_vs_fp32"]["holds"]
    assert of["sft_losses_vs_trl"]["value"] == pytest.approx(abs(at - 2.06) / 2.06)
    assert of["sft_losses_vs_trl"]["target"] == pytest.approx(0.03) and of["sft_grad_norms_vs_trl"]["holds"]


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


def test_the_noise_of_a_dtype_is_what_it_moves_the_gap_of_the_two_likeliest_tokens():
    """bf16 keeps 8 bits of a logit near 20, fp32 24 bits; the largest over more tokens is no smaller."""
    prompts, ids = [[1, 4093, 198, 5], [9, 10, 11]], [[30, 31, 32], [40, 41]]
    few, fine, coarse = (
        sampling.noise_after(prompts[:n], ids[:n], dtype=dtype) for n, dtype in ((1, "bf16"), (2, "fp32"), (2, "bf16"))
    )
    assert 0 < fine < 1e-3 < few <= coarse < 2


def test_a_case_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"benchmark case sampling, ours, .*KeyError|TypeError"):
        in_process("sampling", "ours", size=1, mixed=True, drawn=False, batch=1, colour="red")


def test_grpo_is_measured_beside_trls_batch_of_eight_and_beside_one_pass(monkeypatch):
    """Two rows: the arm with TRL's default is the one that is compared with the reference; memory is checked in both.
    9 GB and 12 GB beside 4 GB: shares of .44 and .33."""
    asked = []

    def side_by_side(case, *, repeats=2, **options):
        one_pass = options.get("one_pass")
        asked.append((options["kind"], one_pass, repeats))
        common = {
            "units": 2,
            "dtype": "fp32",
            "losses": [1.0],
            "grad_norms": [1.0],
            "held_out": [],
            "answers": [],
            "body": 1,
            "head": 1,
        }
        timed = lambda seconds, mb: [common | A_TOKEN | {"seconds": seconds, "peak_rss_mb": mb}] * repeats
        return {"stock": timed(12.0 if one_pass else 9.0, 12_000 if one_pass else 9_000), "ours": timed(3.0, 4_000)}

    def reference(case, variant, **options):
        assert variant == "reference" and "one_pass" not in options
        return {"losses": [1.0], "grad_norms": [1.0]}

    monkeypatch.setattr(speed, "side_by_side", side_by_side)
    monkeypatch.setattr(speed, "in_process", reference)
    monkeypatch.setattr(speed, "TRAINING", {name: o for name, o in speed.TRAINING.items() if name.startswith("grpo")})
    rows, checks = speed._training()
    assert asked == [("grpo", None, 2), ("grpo", True, 1)]
    assert [(row["what"], row["ratio"]) for row in rows] == [("grpo", 3.0), ("grpo_one_pass", 4.0)]
    assert "8 rollouts a pass" in rows[0]["stock"] and "32 rollouts in one pass" in rows[1]["stock"]
    by_id = {row["id"]: row for row in checks}
    assert by_id["grpo_peak_memory_vs_stock"]["value"] == pytest.approx(4 / 9) and by_id["grpo_losses_vs_fp32"]["holds"]
    assert by_id["grpo_one_pass_peak_memory_vs_stock"]["value"] == pytest.approx(1 / 3)
    assert not by_id["grpo_peak_memory_vs_stock"]["holds"] and by_id["grpo_one_pass_peak_memory_vs_stock"]["holds"]


@pytest.mark.parametrize("variant, one_pass, expected", [
    ("stock", False, (8, 4)), ("stock", True, (32, 1)), ("ours", False, (8, 4)), ("reference", False, (8, 4)),
])  # fmt: skip
def test_grpo_takes_so_many_rollouts_a_pass(variant, one_pass, expected, monkeypatch, tmp_path):
    """Stock is TRL's default of eight, so four passes are accumulated to a step of 32."""
    import trl

    made = []

    class Trainer:
        def __init__(self, *, args, **_):
            made.append((args.per_device_train_batch_size, args.gradient_accumulation_steps))

    monkeypatch.setattr(trl, "GRPOTrainer", Trainer)
    profile = SimpleNamespace(use_cpu=True)
    training._grpo(None, variant, training._common(variant, profile, "fp32", 17, tmp_path), 17, one_pass=one_pass)
    assert made == [expected]
    assert trl.GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False).per_device_train_batch_size == 8


def test_rollouts_of_three_turns_write_the_same_whatever_is_kept():
    """Four cases, three tokens a turn: `model.generate`, our loop anew, and with what was read kept. Same actions (the
    tools' results), as many tokens, the same ones but for rounding; only the last one reads what is new alone."""
    options = {"cases": 4, "new_tokens": 3}
    stock, anew, ours = (
        turns.run(variant, anew=anew, **options)
        for variant, anew in (("stock", False), ("stock", True), ("ours", False))
    )
    for other in (stock, anew):
        assert [list(map(len, row)) for row in other["ids"]] == [[3, 3, 3]] * 4 and other["tokens"] == 36
        assert max(turns.gaps(other["ids"], ours["ids"]), default=0.0) < 0.25
    assert ours["tokens"] == 36 and ours["passed_tokens"] < 0.7 * anew["passed_tokens"] < 0.7 * stock["passed_tokens"]
    prompts, results = turns.given(4, seed=17)
    assert [len(of) for of in results] == [2] * 4 and all(len(result) > 3 for of in results for result in of)
    changed = [
        [row[0], [*row[1][:2], row[1][2] + 1], row[2]] for row in ours["ids"]
    ]  # another token in the second turn
    assert len(turns.gaps(ours["ids"], changed)) == 4 and min(turns.gaps(ours["ids"], changed)) > 0


def test_the_table_holds_rollouts_of_several_turns(monkeypatch):
    """Twice as fast as generate, 1.5 times as reading again; one row of two differs by a gap that is no rounding."""
    asked = []

    def side_by_side(case, *, repeats, anew, **options):
        asked.append((case, anew, options))
        result = {"tokens": 12, "dtype": "fp32", "passed_tokens": 30, "peak_rss_mb": 1} | A_TOKEN
        stock = result | {"seconds": 3.0 if anew else 4.0, "ids": [[[1], [2]], [[3], [4 if anew else 5]]]}
        return {"stock": [stock], "ours": [result | {"seconds": 2.0, "ids": [[[1], [2]], [[3], [4]]]}]}

    monkeypatch.setattr(speed, "side_by_side", side_by_side)
    monkeypatch.setattr(turns, "gaps", lambda one, two: [0.5])
    monkeypatch.setattr(turns, "noise", lambda ids, *, dtype: {"fp32": 0.4}[dtype])
    rows, checks = speed._turns()
    assert asked == [("turns", anew, speed.TURNS) for anew in (False, True)]
    assert [row["ratio"] for row in rows] == [2.0, 1.5] and rows[1]["stock"] == turns.ANEW
    assert [(c["id"].removeprefix("rollouts_three_turns_"), c["value"], c["holds"]) for c in checks] == [
        ("vs_stock", 2.0, True), ("largest_logit_gap", 0.5, False), ("largest_logit_gap_vs_noise", 0.5, False),
        ("tokens_more_than_stock", 0, True),
        ("kept_vs_stock", 1.5, True), ("kept_largest_logit_gap", 0.0, True),
        ("kept_largest_logit_gap_vs_noise", 0.0, True), ("kept_tokens_more_than_stock", 0, True),
    ]  # fmt: skip


@pytest.mark.parametrize("kind, nf4", [("sft", False), ("dpo", True), ("grpo", False)])
def test_training_takes_the_course_of_trls_trainer(kind, nf4, monkeypatch):
    """Losses and gradient norms of a small random model, ours against TRL as it comes, on the benchmark's own rows."""
    for name, value in {"STEPS": 3, "PAIRS": 8, "EPOCHS": 2, "CASES": 4, "ROLLOUTS": 2, "GRPO_STEPS": 1}.items():
        monkeypatch.setattr(training, name, value)
    ours, reference = (training.run(v, kind=kind, nf4=nf4, weights="2m") for v in ("ours", "reference"))
    losses, norms = speed._same_course(kind, ours, reference, reference)[:: 1 if ours["dtype"] == "fp32" else 2]
    assert losses["n"] == {"sft": 3, "dpo": 2, "grpo": 1}[kind]
    assert losses["holds"] and norms["holds"], (losses, norms)
    assert max(reference["grad_norms"]) > 0
    assert ours["body"] > ours["head"] > 0 and (ours["body"], ours["head"]) == (reference["body"], reference["head"])
    if kind != "grpo":
        learned = speed._as_much_learned(kind, reference["held_out"], ours["held_out"])
        assert learned["n"] == training.HELD_OUT and abs(learned["value"]) < 1e-3  # the same rows in the same order
        assert all(loss > 0 for loss in ours["held_out"])
    assert len(ours["answers"]) == (len(training.asked()) if kind == "dpo" else 0) and reference["answers"] == []


def test_answers_that_are_shown_to_be_worse_do_not_hold(monkeypatch, capsys):
    """Of 92 answers to everyday prompts 92 equal ones are a half, 40 lost ones are (52 / 2) / 92 = 0.283."""
    rows = [row for row in training.asked() if isinstance(row, ProductionPrompt)]
    rows = (rows * 92)[:92]
    monkeypatch.setattr(training, "asked", lambda: rows)
    good = [f"{' '.join(row.key_points)} We will help you with your order and write to you today." for row in rows]
    same = speed._as_good_answers("dpo", good, good)
    assert same["holds"] and same["n"] == 92 and "win-rate 0.500 over stock, 92 of 92" in capsys.readouterr().err
    worse = speed._as_good_answers("dpo", good, ["" if n < 40 else text for n, text in enumerate(good)])
    assert not worse["holds"] and "win-rate 0.283 over stock, 52 of 92" in capsys.readouterr().err
