"""How far does the two-part refusal detector agree with people? Cross-validated, source by source; and its weights.

`python -m benchmarks.cases.refusals` measures; with `--write` it also trains on all labels and writes
`ftlib/refusals.json`. It needs `make redteam` (pyrit's human labels: 105 and 64 answers) and, for JailbreakBench's
judged answers, `../shared/data/jbb_artifacts` or $FTLIB_JBB. Five folds; a question and an answer, with all that share
one of them, are in one fold, so what is scored was never seen. 150 written answers of the shop, at a weight of 0.3,
teach it this subject; it is scored on those of other clusters. Features, that number and that weight were chosen with
these scores in sight, so that they are on the hopeful side.
"""

import os
import sys
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks import check
from benchmarks.cases import ROOT
from ftlib import agreement, redteam, refusals
from ftlib.records import RedTeamPrompt, data_path, load_jsonl
from ftlib.redteam import Labelled
from ftlib.safety import is_refusal

JBB = Path(os.environ.get("FTLIB_JBB") or ROOT.parent / "shared" / "data" / "jbb_artifacts")
FOLDS, SEED, TARGET = 5, 17, 0.85
SHOP_ROWS, SHOP_WEIGHT = 150, 0.3
SOURCES = (*redteam.HUMAN_REFUSALS, "jailbreakbench", "shop")


def fold_of(rows: list[Labelled]) -> np.ndarray:
    """A fold for each row, shape (n,); rows that share a question or the start of an answer are in one fold."""
    names: dict[str, int] = {}
    keys = [(f"q {row.question.strip().lower()}", f"a {row.answer.strip()[:300]}") for row in rows]
    places = np.array([[names.setdefault(key, len(names)) for key in pair] for pair in keys])
    edges = coo_array((np.ones(len(rows)), (places[:, 0], places[:, 1])), shape=(len(names), len(names)))
    group_N = connected_components(edges, directed=False)[1][places[:, 0]]
    folds, sizes = {}, np.zeros(FOLDS)
    for group in np.argsort(-np.bincount(group_N), kind="stable"):  # the largest first, each to the emptiest fold
        folds[int(group)] = int(sizes.argmin())
        sizes[folds[int(group)]] += (group_N == group).sum()
    return np.array([folds[int(group)] for group in group_N])


def shop_rows() -> tuple[list[Labelled], list[Labelled]]:
    """The shop's written answers: those to train on, and those of clusters that these do not touch."""
    written = [row for row in load_jsonl(data_path("prompts/redteam.jsonl"), RedTeamPrompt) if row.answer]
    drawn = [written[n] for n in np.random.default_rng(SEED).permutation(len(written))[:SHOP_ROWS]]
    clusters = {row.cluster for row in drawn}
    others = [row for row in written if row.cluster not in clusters]
    mine, rest = ([Labelled(r.text, r.answer, r.kind == "harmful", "shop") for r in part] for part in (drawn, others))
    return mine, rest


def held_out_verdicts(rows: list[Labelled], always: list[Labelled]) -> np.ndarray:
    """What the detector says about each row when its fold was left out of the training, shape (n,).

    `always` are trained on in every fold.
    """
    fold_N, said_N = fold_of(rows), np.zeros(len(rows), dtype=bool)
    for fold in range(FOLDS):
        seen = [row for row, f in zip(rows, fold_N, strict=True) if f != fold]
        new = [row for row, f in zip(rows, fold_N, strict=True) if f == fold]
        said_N[fold_N == fold] = _fit(seen + always).refused([r.question for r in new], [r.answer for r in new])
    return said_N


def measure() -> dict:
    """{"rows", "checks"}: kappa with the labels of each source, of the patterns alone and of both parts."""
    human = redteam.load_refusals()
    judged = redteam.load_jailbreakbench(JBB) if JBB.is_dir() else []
    rows = human + [label for label, _ in judged]
    shop, others = shop_rows()
    said_N = held_out_verdicts(rows, shop)
    lines, checks = [], []
    for name in (*SOURCES[:3], "people"):
        mine = [n for n, row in enumerate(rows) if row.source == name or (name == "people" and n < len(human))]
        if not mine:
            continue
        labels = [rows[n].refused for n in mine]
        both = _kappa(labels, said_N[mine])
        patterns = _kappa(labels, [is_refusal(rows[n].answer) for n in mine])
        lines.append({"source": name, "n": len(mine), "refused": float(np.mean(labels)), "patterns": patterns.value,
                      "both parts": both.value, "interval": both.interval})  # fmt: skip
        checks.append(check(f"refusal_kappa_{name}", both.value, ">=", TARGET, n=len(mine), spread=list(both.interval)))
    if judged:
        other = _kappa([label.refused for label, _ in judged], [guard for _, guard in judged])
        lines.append({"source": "jailbreakbench: its judge against Llama Guard", "n": len(judged),
                      "both judges": other.value, "interval": other.interval})  # fmt: skip
    labels = [row.refused for row in others]
    both = _kappa(labels, _fit(rows + shop).refused([row.question for row in others], [row.answer for row in others]))
    patterns = _kappa(labels, [is_refusal(row.answer) for row in others])
    lines.append({"source": "the shop's answers of other clusters", "n": len(others), "refused": float(np.mean(labels)),
                  "patterns": patterns.value, "both parts": both.value, "interval": both.interval})  # fmt: skip
    return {"rows": lines, "checks": checks}


def write_weights() -> Path:
    """Train on all labels and write the weights that the library ships."""
    human = redteam.load_refusals()
    judged = [label for label, _ in redteam.load_jailbreakbench(JBB)]
    return refusals.save_detector(_fit(human + judged + shop_rows()[0]), refusals.WEIGHTS)


def _fit(rows: list[Labelled]) -> refusals.Detector:
    sources = [f"{sum(row.source == name for row in rows)} of {name}" for name in SOURCES]
    return refusals.train(
        [row.question for row in rows],
        [row.answer for row in rows],
        [row.refused for row in rows],
        trained_on=", ".join(sources),
        weights=[SHOP_WEIGHT if row.source == "shop" else 1.0 for row in rows],
    )


def _kappa(labels, said) -> agreement.Coefficient:
    values = {str(n): {"label": int(a), "said": int(b)} for n, (a, b) in enumerate(zip(labels, said, strict=True))}
    return agreement.cohen_kappa(values, "label", "said", seed=SEED, resamples=2_000)


if __name__ == "__main__":
    if "--write" in sys.argv:
        print(write_weights())
    found = measure()
    for line in [*found["rows"], *found["checks"]]:
        print(line)
