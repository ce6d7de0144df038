"""Stock against ours: sampling, and training steps of SFT, DPO and GRPO, on the embedded model.

Each figure comes from processes that take turns (stock, ours, stock, ours), so that a slow spell of the machine hits
both, and stands beside a check that the work was the same: greedy texts, losses, what was learned (drawn frequencies
are tested in `tests/test_generate.py`). What stock is stands in its row.
"""

import functools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import check
from benchmarks.cases import ROOT, VARIANTS, in_process, sampling, side_by_side, training, turns
from ftlib import gates, judges
from ftlib.files import read_json
from ftlib.runs import runs_root
from ftlib.summary import is_smoke, load_summary

MIXED = {"size": 256, "mixed": True, "batch": 64}
SIZES = (1, 16, 64, 256)
TRAINING = {
    "sft": {}, "dpo_nf4": {"kind": "dpo", "nf4": True}, "dpo": {"repeats": 1}, "grpo": {},
    "grpo_one_pass": {"kind": "grpo", "one_pass": True, "repeats": 1},
}  # fmt: skip
NOISE = {"fp32": 1e-3, "bf16": 0.25, "fp16": 0.05}  # logits that are nearer than that are the same, by dtype
TURNS = {"cases": 32, "new_tokens": 32}  # rollouts of three turns
GATE_ROWS = (1_000, 10_000, 100_000)
NO_WORSE = 0.01  # nats: the most that ours may be above stock on held-out rows, where that is shown
LARGER = {"0.5b": 12_000, "1.5b": 20_000, "8b": 60_000}  # random weights -> MB of GPU memory that they want


def measure() -> Iterator[dict]:
    """{"ceilings", "rows", "checks"} so far, after each part; more than an hour on two cores without bf16.

    A part whose case fails (a GPU that is full, say) leaves a row with the error and a check that does not hold, and
    the next part is measured.
    """
    import torch

    ceilings = in_process("ceiling", "ours")
    rows, checks = [], []
    larger, device = ([_larger], {"device": torch.cuda.get_device_name()}) if torch.cuda.is_available() else ([], {})
    for part in (_minutes, _sampling, _turns, _training, *larger, _library, _growth):
        try:
            more_rows, more_checks = part()
        except RuntimeError as error:
            more_rows, more_checks = _failed(part.__name__.strip("_"), error)
        rows += [_with_shares(row, ceilings) for row in more_rows]
        checks += more_checks
        yield device | {"ceilings": ceilings, "rows": rows, "checks": checks}


def _failed(what: str, error: RuntimeError) -> tuple[list[dict], list[dict]]:
    print(f"  {what}: {error}", file=sys.stderr, flush=True)
    row = {"what": what, "error": str(error)}
    return [row], [check(f"{what}_measured", 0, ">=", 1, n=1, spread=[0, 0])]


def _with_shares(row: dict, ceilings: dict) -> dict:
    """The row, and of each rate its share of the limit: of the largest matrix product's; of weights read, a copy's."""
    shares = {}
    for unit, name in {"gflop_a_second": "share_of_ceiling", "gb_a_second": "share_of_copy"}.items():
        rates = {variant: row.get(f"{variant}_{unit}") for variant in VARIANTS}
        shares |= {f"{variant}_{name}": rate / ceilings[unit] for variant, rate in rates.items() if rate}
    return row | shares


def _ratio(found: dict[str, list[dict]], of) -> tuple[float, list[float]]:
    """Ours over stock of a rate: the ratio of the medians, and the least and the largest of the pairs' ratios."""
    rates = {variant: [of(result) for result in results] for variant, results in found.items()}
    pairs = [b / a for a, b in zip(rates["stock"], rates["ours"], strict=True)]
    return statistics.median(rates["ours"]) / statistics.median(rates["stock"]), [min(pairs), max(pairs)]


def _row(name: str, found: dict[str, list[dict]], unit: str, of, *, stock: str) -> dict:
    """A line of the table: medians of the rate and of the peak memory, how far the rates spread, and what stock is."""
    line = {"what": name, "unit": unit, "dtype": found["ours"][0]["dtype"], "stock": stock}
    for variant, results in found.items():
        rates = sorted(map(of, results))
        line |= {
            f"{variant}_{unit}_a_second": statistics.median(rates),
            f"{variant}_spread": [rates[0], rates[-1]],
            f"{variant}_peak_mb": statistics.median(result["peak_rss_mb"] for result in results),
        }
        if "peak_gpu_mb" in results[0]:
            line[f"{variant}_peak_gpu_mb"] = statistics.median(result["peak_gpu_mb"] for result in results)
    return line | {"ratio": _ratio(found, of)[0]}


def _sampling() -> tuple[list[dict], list[dict]]:
    rate = lambda result: result["tokens"] / result["seconds"]
    rows, checks = [], []
    for drawn, repeats in ((False, 2), (True, 1)):
        found = side_by_side("sampling", repeats=repeats, drawn=drawn, **MIXED)
        name = f"sampling_256_mixed_{'drawn' if drawn else 'greedy'}"
        rows.append(_row(name, found, "tokens", rate, stock=sampling.STOCK) | _products(found))
        value, spread = _ratio(found, rate)
        checks.append(check(f"{name}_vs_stock", value, ">=", 3.0, n=len(found["ours"]), spread=spread))
        if not drawn:
            checks += _same_texts(found)
    for size in SIZES:
        found = side_by_side("sampling", repeats=1, drawn=False, size=size, mixed=False, batch=size)
        name = f"sampling_{size}_short_greedy"
        rows.append(_row(name, found, "tokens", rate, stock=sampling.STOCK) | _products(found) | _reads(found))
    return rows, checks


def _turns() -> tuple[list[dict], list[dict]]:
    """Rollouts of three turns: states kept from turn to turn, against `model.generate` and against our own loop that
    reads each history again. The same actions and as many tokens in all three."""
    rate = lambda result: result["tokens"] / result["seconds"]
    rows, checks = [], []
    for name, stock in {"rollouts_three_turns": turns.STOCK, "rollouts_three_turns_kept": turns.ANEW}.items():
        found = side_by_side("turns", repeats=1, anew=stock is turns.ANEW, **TURNS)
        rows.append(_row(name, found, "tokens", rate, stock=stock) | _products(found))
        value, spread = _ratio(found, rate)
        checks.append(check(f"{name}_vs_stock", value, ">=", 1.0, n=len(found["ours"]), spread=spread))
        checks += _same_answers(f"{name}_largest_logit_gap", found, turns.gaps, turns.noise)
        apart = found["ours"][0]["tokens"] - found["stock"][0]["tokens"]
        n = len(found["ours"][0]["ids"])
        checks.append(check(f"{name}_tokens_more_than_stock", apart, "==", 0, n=n, spread=[apart, apart]))
    return rows, checks


def _growth() -> tuple[list[dict], list[dict]]:
    """Sampling with one size changed at a time: prompts, length, model. One run each: rows, and no checks.

    The rows of the data gates are in `_library`.
    """
    start = {"prompts": 100, "tokens": 64, "weights": "2m"}
    changes = [{}, {"prompts": 1_000}, {"prompts": 10_000}, {"tokens": 256}, {"tokens": 1_024}, {"weights": "0.5b"}]
    rows = []
    for change in changes:
        found = in_process("growth", "ours", **start | change)
        line = {"what": "growth", "by": next(iter(change), ""), **start, **change, "parameters": found["parameters"]}
        line |= {"seconds": found["seconds"], "peak_mb": found.get("peak_gpu_mb", found["peak_rss_mb"])}
        rows.append(line | {"microseconds_a_token": 1e6 * found["seconds"] / found["tokens"]})
        print(f"  growth {change}: {line['seconds']:.1f} s, {line['peak_mb']} MB", file=sys.stderr, flush=True)
    return rows, []


def _larger() -> tuple[list[dict], list[dict]]:
    """On a GPU: sampling, SFT and NF4 DPO with random weights of larger models; ours must not be slower than stock."""
    work = {
        "sampling": ("sampling", {"drawn": True, **MIXED}, "tokens", sampling.STOCK),
        "sft": ("training", {"kind": "sft"}, "units", training.STOCK["sft"]),
        "dpo_nf4": ("training", {"kind": "dpo", "nf4": True}, "units", training.STOCK["dpo"]),
    }
    rows, checks = [], []
    for weights, need_mb in LARGER.items():
        if _gpu_mb() < need_mb:
            print(f"  {weights}: left out, it wants {need_mb} MB of GPU memory", file=sys.stderr)
            continue
        with TemporaryDirectory() as folder:
            for name, (case, options, unit, stock) in work.items():
                rate = lambda result, unit=unit: result[unit] / result["seconds"]
                kept = {"folder": folder} if options.get("nf4") else {}
                try:
                    found = side_by_side(case, weights=weights, **options, **kept)
                except RuntimeError as error:
                    failed_rows, failed_checks = _failed(f"{name}_{weights}", error)
                    rows, checks = rows + failed_rows, checks + failed_checks
                    continue
                counted = {} if case == "sampling" else {"body": "body", "head": "head"}
                rows.append(_row(f"{name}_{weights}", found, unit, rate, stock=stock) | _products(found, **counted))
                value, spread = _ratio(found, rate)
                id = f"{name}_{weights}_vs_stock"
                checks.append(check(id, value, ">=", 1.0, n=len(found["ours"]), spread=spread))
    return rows, checks


def _gpu_mb() -> float:
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 2**20


def _products(found: dict[str, list[dict]], *, body: str = "passed_tokens", head: str = "tokens") -> dict[str, float]:
    """GFLOP/s of the matrix products with weights, from the fields that count tokens of the layers and of the head.

    Sampling: every token that was read or written, the head for new ones only. Training: what must be computed
    (`cases.training`); what stock computes twice counts once.
    """
    work = lambda result: (result["mflop_body"] * result[body] + result["mflop_head"] * result[head]) / 1e3
    return {f"{v}_gflop_a_second": statistics.median(work(r) / r["seconds"] for r in found[v]) for v in found}


def _reads(found: dict[str, list[dict]]) -> dict[str, float]:
    """GB/s of weights that were read, once a pass: the limit where few rows share a pass. Nothing where not known."""
    known = {v: results for v, results in found.items() if results[0].get("weights_read_gb")}
    return {
        f"{v}_gb_a_second": statistics.median(r["weights_read_gb"] / r["seconds"] for r in results)
        for v, results in known.items()
    }


def _same_texts(found: dict[str, list[dict]]) -> list[dict]:
    """Greedy answers of both: where they differ, the two logits must be nearer than the dtype's noise."""
    same = {"size": MIXED["size"], "mixed": True}
    gaps, noise = (functools.partial(of, **same) for of in (sampling.gaps, sampling.noise))
    return _same_answers("greedy_largest_logit_gap", found, gaps, noise)


def _same_answers(id: str, found: dict[str, list[dict]], gaps_of, noise_of) -> list[dict]:
    """Is the largest gap between two logits, where answers differ, below a fixed limit, and within what the dtype
    itself moves such gaps?

    Args:
        gaps_of, noise_of: `gaps` and `noise` of the case.
    """
    one, two = found["stock"][0]["ids"], found["ours"][0]["ids"]
    gaps = gaps_of(one, two) if one != two else []
    noise = noise_of(one, dtype=found["stock"][0]["dtype"]) if gaps else 0.0
    same, largest = sum(a == b for a, b in zip(one, two, strict=True)), max(gaps, default=0.0)
    print(f"  {id}: {same} of {len(one)} the same; gaps {[round(gap, 4) for gap in gaps]}", file=sys.stderr)
    limits = {id: NOISE[found["ours"][0]["dtype"]], f"{id}_vs_noise": noise}
    spread = [min(gaps, default=0.0), largest]
    return [check(name, largest, "<=", limit, n=len(one), spread=spread) for name, limit in limits.items()]


def _training() -> tuple[list[dict], list[dict]]:
    rate = lambda result: result["units"] / result["seconds"]
    unit = {"sft": "tokens", "dpo": "pairs", "grpo": "steps"}
    rows, checks = [], []
    for name, options in TRAINING.items():
        options = {"kind": name} | options
        found = side_by_side("training", **options)
        kind, one_pass = options["kind"], options.get("one_pass")
        row = _row(name, found, unit[kind], rate, stock=training.STOCK[f"{kind}_one_pass" if one_pass else kind])
        row |= {f"{variant}_losses": results[0]["losses"] for variant, results in found.items()}
        rows.append(row | _products(found, body="body", head="head"))
        value, spread = _ratio(found, rate)
        checks.append(check(f"{name}_vs_stock", value, ">=", 2.0, n=len(found["ours"]), spread=spread))
        if found["ours"][0]["held_out"]:
            checks.append(_as_much_learned(name, *(found[variant][0]["held_out"] for variant in VARIANTS)))
        if found["ours"][0]["answers"]:
            checks.append(_as_good_answers(name, *(found[variant][0]["answers"] for variant in VARIANTS)))
        if kind == "grpo":
            of = "peak_gpu_mb" if "ours_peak_gpu_mb" in row else "peak_mb"
            share = row[f"ours_{of}"] / row[f"stock_{of}"]
            n = len(found["ours"])
            checks.append(check(f"{name}_peak_memory_vs_stock", share, "<=", 1 / 3, n=n, spread=[share, share]))
        if one_pass:  # ours is the same as beside the eight rollouts, and was compared with the reference there
            continue
        options.pop("repeats", None)
        reference, ours = in_process("training", "reference", **options), found["ours"][0]
        plain = reference if ours["dtype"] == "fp32" else in_process("training", "plain", **options)
        checks += _same_course(name, ours, plain, reference)
    return rows, checks


def _same_course(name: str, ours: dict, plain: dict, reference: dict) -> list[dict]:
    """The largest difference from the slow fp32 reference, of the first 20 losses and gradient norms.

    In another dtype also that from plain TRL in the same dtype, which should be no more than what the dtype itself
    does: that of plain TRL from the reference. (The first steps of Adam make much of small differences.)
    """
    target = 1e-4 if ours["dtype"] == "fp32" else 1e-2
    checks = []
    for what in ("losses", "grad_norms"):
        apart, beside, noise = (_apart(*two, what) for two in ((ours, reference), (ours, plain), (plain, reference)))
        compared = {f"{name}_{what}_vs_fp32": (apart, target)}
        if ours["dtype"] != "fp32":
            compared[f"{name}_{what}_vs_trl"] = (beside, max(noise))
        checks += [
            check(id, max(values), "<=", most, n=len(values), spread=[min(values), max(values)])
            for id, (values, most) in compared.items()
        ]
    return checks


def _apart(one: dict, two: dict, what: str) -> list[float]:
    """Of each of the first 20 steps: how far apart two courses are; a share of the second's where that is above 1."""
    return [abs(a - b) / max(1.0, abs(b)) for a, b in list(zip(one[what], two[what], strict=True))[:20]]


def _as_much_learned(name: str, stock: list[float], ours: list[float]) -> dict:
    """Is the loss on held-out rows above stock's? The low end of the interval says by how much at least."""
    apart, ends = gates.paired_difference(stock, ours, seed=17)
    print(f"  {name}: held-out loss {apart:+.4f} to stock", file=sys.stderr, flush=True)
    return check(f"{name}_held_out_loss_above_stock", ends.low, "<=", NO_WORSE, n=len(ours), spread=list(ends))


def _as_good_answers(name: str, stock: list[str], ours: list[str]) -> dict:
    """Are the answers worse than stock's? The win-rate over them by the rubric judge; where it is shown to be below one
    half, the high end of its interval is."""
    rate, ends = gates.win_rate(judges.judge_pairs([judges.rubric_for(row) for row in training.asked()], stock, ours))
    same = sum(a == b for a, b in zip(stock, ours, strict=True))
    print(f"  {name}: win-rate {rate:.3f} over stock, {same} of {len(ours)} answers alike", file=sys.stderr, flush=True)
    return check(f"{name}_win_rate_over_stock_at_most", ends.high, ">=", 0.5, n=len(ours), spread=list(ends))


def _library() -> tuple[list[dict], list[dict]]:
    """Import time, and the data gates on up to 100,000 rows."""
    found = in_process("imports", "ours")
    grown = [in_process("data_gates", "ours", rows=rows) for rows in GATE_ROWS]
    one = lambda id, value, target: check(id, value, "<=", target, n=1, spread=[value, value])
    checks = [
        one("import_seconds", found["seconds"], 0.3),
        one("import_heavy_packages", len(found["heavy"]), 0),
        one("data_gates_100k_seconds", grown[-1]["seconds"], 60),
        one("data_gates_100k_peak_mb", grown[-1]["peak_rss_mb"], 2048),
    ]
    return [{"what": "data_gates", **line} for line in grown], checks


def _minutes() -> tuple[list[dict], list[dict]]:
    """What each notebook took in the newest whole run here that is no smoke run; nothing where there is none."""
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    whole = [
        run for run in map(load_summary, _newest_first(runs_root())) if not is_smoke(run) and _complete(run, names)
    ]
    if not whole:
        print("  minutes a notebook: no whole run here; make play, then again", file=sys.stderr)
        return [], []
    run, done = whole[0], whole[0]["notebooks"]
    rows = [
        {"what": "notebook", "notebook": name, "run_id": run["run_id"], "profile": run["profile"],
         "minutes": done[name]["seconds"] / 60, "peak_mb": done[name]["peak_rss_mb"]}
        for name in names
    ]  # fmt: skip
    total = sum(row["minutes"] for row in rows)
    return rows, [check("play_minutes", total, "<=", 30, n=1, spread=[total, total])]


def _newest_first(root: Path) -> list[Path]:
    made = {path.parent: str(read_json(path).get("created_at", "")) for path in root.glob("*/run.json")}
    return sorted((run for run in made if (run / "summary.json").exists()), key=made.get, reverse=True)


def _complete(run: dict, names: list[str]) -> bool:
    return all(run["notebooks"].get(name, {}).get("status") == "complete" for name in names)


def figures(found: dict) -> dict:
    """How time and memory grow, from what `measure` found: title -> figure.

    Both axes are multiples of the smallest size's, and logarithmic: what grows in proportion keeps to the dashed line.
    """
    from ftlib import plots

    sizes = {name: points for name, points in _sizes(found["rows"]).items() if points}
    if not sizes:
        return {}
    drawn = {}
    for what, unit in {"seconds": "time", "peak_mb": "peak memory"}.items():
        series = {
            name: ([size / points[0][0] for size, _ in points], [row[what] / points[0][1][what] for _, row in points])
            for name, points in sizes.items()
        }
        most = max(max(x) for x, _ in series.values())
        fig = plots.lines(series | {"in proportion": ([1, most], [1, most])}, f"How does the {unit} grow?",
                          "size, as a multiple of the smallest", f"{unit}, as a multiple of the smallest")  # fmt: skip
        fig.update_xaxes(type="log", dtick=1)
        fig.update_yaxes(type="log", dtick=1)
        drawn[f"growth of {unit}"] = fig
    return drawn


def _sizes(rows: list[dict]) -> dict[str, list[tuple[float, dict]]]:
    """What grows -> (size, row) of each, the smallest first."""
    named = {"prompts": "prompts", "tokens": "tokens of a prompt", "weights": "parameters"}
    growth = [row for row in rows if row["what"] == "growth"]
    grown = {  # the smallest is of no kind: all begin there
        name: [(row["parameters" if by == "weights" else by], row) for row in growth if row["by"] in ("", by)]
        for by, name in named.items()
    }
    of_rows = [row | {"peak_mb": row["peak_rss_mb"]} for row in rows if row["what"] == "data_gates"]
    return grown | {"rows of the data gates": [(row["rows"], row) for row in of_rows]}
