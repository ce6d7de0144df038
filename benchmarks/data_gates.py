"""Do the data gates find planted faults, and leave clean sets alone? Ten kinds of fault by 20 seeds, 20 clean sets.

A clean set is 1,000 rows drawn by seed from `data/sft/train.jsonl`, with `data/sft/test.jsonl` held out. A fault counts
as missed when its own gate does not FAIL, a clean set as a false alarm when any gate does. The auditors are programs
that know which labels were changed, and slip on 2 % of the rows: they test the audit's arithmetic, not people.
Where `../shared/data/banking77` is there, the leak gate is also run on a public set whose overlap is known. A file of
1 GB is written to a temporary folder and read as a stream, in a process of its own.
"""

import csv
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import check
from benchmarks.cases import ROOT
from benchmarks.cases.faults import KINDS, MAX_LENGTH, DataSet, Encode
from ftlib import audit, data_gates, quality
from ftlib.data_gates import Finding, Item
from ftlib.gates import wilson
from ftlib.records import SftRow, data_path, load_jsonl

SEEDS = range(20)
ROWS = 1_000
AUDITED, OVERLAP = 60, 20
STREAMED_BYTES, STREAMED_PEAK_MB = 1_000_000_000, 512  # the file is never in memory; its rows' ids are
STREAM = """
import json, sys, time
from ftlib.intake import count_rows
from ftlib.machine import peak_rss_mb
started = time.perf_counter()
rows = count_rows(sys.argv[1])
print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started, "peak_mb": peak_rss_mb()}))
"""
BANKING = ROOT.parent / "shared" / "data" / "banking77"


def measure() -> dict:
    """{"rows", "checks"}; about six minutes on two cores, and 1 GB of disk for a moment."""
    encode, eos = _encoder()
    train, test = (load_jsonl(data_path(f"sft/{name}.jsonl"), SftRow) for name in ("train", "test"))
    clean = {seed: DataSet(_draw(train, seed), test) for seed in SEEDS}
    alarms, rows = _clean_sets(clean, encode, eos)
    checks = [_count("false_alarms_on_clean_sets", alarms, len(SEEDS))]
    missed_of = {}
    for kind in KINDS:
        row, missed_of[kind] = _planted(kind, clean, encode, eos)
        rows.append(row)
        checks.append(_count(f"missed_{kind.replace(' ', '_')}", missed_of[kind], len(SEEDS)))
    checks.append(_count("missed_of_all", sum(missed_of.values()), len(SEEDS) * len(KINDS)))
    more_rows, more_checks = _banking()
    long_rows, long_checks = streamed(STREAMED_BYTES)
    return {"rows": rows + more_rows + long_rows, "checks": checks + more_checks + long_checks}


def _draw(rows: list[SftRow], seed: int) -> list[SftRow]:
    return [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))[:ROWS]]


def _count(id: str, value: int, n: int) -> dict:
    low, high = wilson(value, n)
    return check(id, value, "==", 0, n=n, spread=[low * n, high * n])


def _clean_sets(clean: dict[int, DataSet], encode: Encode, eos: int) -> tuple[int, list[dict]]:
    """How many clean sets some gate fails, and a row of the table for each gate: its verdicts and its worst number."""
    verdicts: dict[str, Counter] = {}
    alarms, seconds = 0, []
    for seed, data in clean.items():
        started = time.perf_counter()
        found = [*judge(data, encode, eos), _audited(data, data, seed)]
        seconds.append(time.perf_counter() - started)
        for finding in found:
            verdicts.setdefault(finding.id, Counter())[_verdict(finding)] += 1
        failed = [finding.id for finding in found if _verdict(finding) == "FAIL"]
        alarms += bool(failed)
        print(f"  clean set {seed}: {seconds[-1]:.1f} s {failed or ''}", file=sys.stderr, flush=True)
    return alarms, [{"what": "clean", "gate": gate, **dict(counts)} for gate, counts in verdicts.items()]


def _planted(kind: str, clean: dict[int, DataSet], encode: Encode, eos: int) -> tuple[dict, int]:
    """A row of the table for one kind of fault, and in how many sets its gate did not fail."""
    planter, gate = KINDS[kind]
    missed, planted, named, others = [], 0, 0, Counter()
    for seed, data in clean.items():
        spoilt = planter(data, np.random.default_rng([seed, list(KINDS).index(kind)]), encode)
        found = judge(spoilt, encode, eos)
        if gate == "audit_correct":
            found.append(_audited(spoilt, data, seed))
        failed = {finding.id: finding for finding in found if _verdict(finding) == "FAIL"}
        if gate not in failed:
            missed.append(seed)
        others.update(failed.keys() - {gate})
        of_gate = [hit for finding in found if finding.id == gate for hit in finding.hits]
        hits = {spoilt.train[hit.row].id for hit in of_gate} | {hit.other for hit in of_gate}  # a copy may come first
        planted, named = planted + len(spoilt.planted), named + len(spoilt.planted & hits)
    print(f"  {kind}: missed in sets {missed}, rows named {named} of {planted}", file=sys.stderr, flush=True)
    line = {"what": kind, "gate": gate, "sets": len(clean), "missed": len(missed), "missed_seeds": missed}
    return line | {"rows_planted": planted, "rows_named": named, "other_gates_that_failed": dict(others)}, len(missed)


def judge(data: DataSet, encode: Encode, eos: int) -> list[Finding]:
    """All gates but the audit, as notebook 02 runs them."""
    items, held_out = data_gates.items_of(data.train), data_gates.items_of(data.test)
    full = [data.tokens.get(row.id) or encode(row) for row in data.train]
    seen = [{name: values[:MAX_LENGTH] for name, values in tokens.items()} for tokens in full]
    return [
        data_gates.duplicates(items),
        data_gates.leakage(items, held_out),
        data_gates.empty(items),
        data_gates.encoding(items),
        data_gates.pii(items),
        data_gates.truncated(items, lengths=[len(t["input_ids"]) for t in full], max_length=MAX_LENGTH),
        data_gates.loss_mask(items, seen),
        data_gates.stop_token(items, seen, eos),
        data_gates.label_balance(items, expected={item.label for item in held_out if item.label}),
        data_gates.label_hotspots(items),
    ]


def _verdict(finding: Finding) -> str:
    return finding.gate("data_gates").verdict


def _audited(data: DataSet, truth: DataSet, seed: int) -> Finding:
    """The audit of a drawn sample by two programs that know the truth, and slip; what is open is settled by it."""
    right = {row.id: row.answer() for row in truth.train}
    items = data_gates.items_of(data.train)
    sample = audit.draw_sample(items, AUDITED, seed=seed)

    def compare(item: Item) -> str:
        return "" if item.answer == right[item.id] else "another label"

    with TemporaryDirectory() as folder:
        log = audit.AuditLog(Path(folder) / "audit.jsonl")
        for number, (name, given) in enumerate(audit.assign(sample, ("sim-a", "sim-b"), overlap=OVERLAP).items()):
            session = audit.AuditSession(log, name, given, seed=seed, simulated=True)
            audit.replay(session, audit.simulated_auditor(compare, seed=1_000 * number + seed))
        questions = audit.open_questions(sample, log.verdicts())
        settler = audit.AuditSession(log, audit.SETTLER, questions, seed=seed, simulated=True, settles=True)
        audit.replay(settler, audit.simulated_auditor(compare, seed=seed, slip=0.0, unsure=0.0))
        return audit.audit_finding(items, sample, log.verdicts())


def _encoder() -> tuple[Encode, int]:
    """Rows as TRL tokenises prompt and completion: the prompt without loss, the answer and its end with it."""
    from ftlib import generate, models

    tokenizer = models.load_tokenizer("embedded")
    known: dict[tuple[str, str, str], dict] = {}

    def encode(row: SftRow) -> dict:
        key = (row.input, row.context, row.answer())
        if key not in known:
            (prompt,) = generate.chat_ids(tokenizer, [row.prompt()])
            chat = [*row.prompt(), {"role": "assistant", "content": row.answer()}]
            ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
            known[key] = {"input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt) :]}
        return known[key]

    return encode, tokenizer.eos_token_id


def _banking() -> tuple[list[dict], list[dict]]:
    """The known overlap of banking77's two files; nothing where the folder is not there."""
    if not BANKING.is_dir():
        print(f"  banking77 left out: {BANKING} is not there", file=sys.stderr)
        return [], []
    texts = {}
    for name in ("train", "test"):
        with open(BANKING / f"{name}.csv", encoding="utf-8", newline="") as file:
            texts[name] = [row["text"] for row in csv.DictReader(file)]
    train, test = ([Item(f"{name}-{n}", text, "") for n, text in enumerate(texts[name])] for name in texts)
    started = time.perf_counter()
    found = data_gates.leakage(train, test)
    seconds = time.perf_counter() - started
    exact = {hit.other for hit in found.hits if hit.reason in ("exact", "normalised")}
    near = len(quality.leakage(texts["train"], texts["test"], data_gates.NEAR_WORDS, n=1))
    row = {
        "what": "banking77", "gate": "leakage", "verdict": _verdict(found), "leaked": found.value,
        "interval": found.interval, "near_by_word_sets": near, "exact": len(exact), "test_rows": len(test),
        "seconds": seconds,
    }  # fmt: skip
    share = near / len(test)
    return [row], [
        check("banking77_exact_after_normalising", len(exact), "==", 25, n=len(test), spread=[len(exact), len(exact)]),
        check("banking77_near_share", round(share, 3), "==", 0.159, n=len(test), spread=list(wilson(near, len(test)))),
    ]


def streamed(size: int) -> tuple[list[dict], list[dict]]:
    """A JSON Lines file of at least `size` bytes, read by `intake.stream_rows`: rows, seconds, peak memory."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "long.jsonl"
        text, n, written = "a tent that leaks, and a question about it " * 22, 0, 0
        with open(path, "w", encoding="utf-8") as file:
            while written < size:
                written += file.write(json.dumps({"prompt": f"{n} {text}", "completion": "warranty"}) + "\n")
                n += 1
        size = path.stat().st_size
        line = [sys.executable, "-c", STREAM, str(path)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    row = {"what": "streamed file", "bytes": size, "rows_written": n, **found}
    print(f"  {size / 1e9:.2f} GB streamed: {found}", file=sys.stderr, flush=True)
    peak = found["peak_mb"]
    return [row], [
        check("streamed_rows_lost", n - found["rows"], "==", 0, n=n, spread=[n - found["rows"], n - found["rows"]]),
        check("streamed_peak_mb", peak, "<=", STREAMED_PEAK_MB, n=1, spread=[peak, peak]),
    ]
