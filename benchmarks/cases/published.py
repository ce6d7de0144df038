"""Examples published with their result: agreement and error rates of raters, the known faults of a public set of pairs.

A published number is right when ours, rounded to as many digits, is the same.
"""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import check
from ftlib import agreement, truth
from ftlib.gates import wilson
from ftlib.pair_audit import audit_pairs, split_transcript
from ftlib.records import Rating

SEED = 17
DIGITS = 3  # that the examples were published with
HH = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh_rlhf_harmless" / "test.jsonl.gz"


def by_item(rows: dict[str, str]) -> dict[str, dict[str, int | str]]:
    """Rater -> one letter an item ("." no rating) as item -> rater -> value."""
    length = len(next(iter(rows.values())))
    return {
        f"u{n}": {rater: int(row[n]) if row[n].isdigit() else row[n] for rater, row in rows.items() if row[n] != "."}
        for n in range(length)
    }


# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section C: four observers, twelve units.
OBSERVERS = by_item({"a": "123321412...", "b": "1233224125.3", "c": ".3332342251.", "d": "12332441251."})
ALPHAS = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}

# Fleiss (1971), Measuring nominal scale agreement among many raters, table 1: 30 patients, six psychiatrists each, five
# diagnoses. Columns: depression, personality disorder, schizophrenia, neurosis, other.
PATIENTS = [
    "00060", "03003", "01401", "00006", "03030", "20400", "00402", "20310", "20040", "00006",
    "10050", "11040", "03300", "10050", "02031", "00501", "30012", "51000", "02040", "10203",
    "00006", "01050", "02013", "20040", "10041", "05010", "40002", "02040", "10500", "00006",
]  # fmt: skip
FLEISS = 0.430

# The worked example of Wikipedia's "Cohen's kappa": 50 grants, 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no.
GRANTS = ["yy"] * 20 + ["yn"] * 5 + ["ny"] * 10 + ["nn"] * 15
COHEN = 0.4

# Dawid and Skene (1979), Maximum likelihood estimation of observer error-rates using the EM algorithm, table 1: 45
# patients, fitness for surgery from 1 to 4. The first anaesthetist says it three times, the other four once each.
FITNESS = [
    "1111111", "3334334", "1122122", "2223121", "2223222", "2223322", "1222111", "3333433", "2222223",
    "2322223", "4444444", "2223343", "1111111", "2223212", "1211111", "1112111", "1111111", "1111111",
    "2222221", "2221322", "2222222", "2222221", "2223222", "2212222", "1111111", "1111111", "2322222",
    "1111111", "1111111", "1121121", "1111111", "3333233", "1111111", "2222222", "2223232", "4334343",
    "2212232", "2323233", "3333432", "1111111", "1111111", "1212111", "2322222", "1211111", "2222222",
]  # fmt: skip
# Their estimates, to two digits: how frequent each grade is; and for each anaesthetist and each true grade, in percent,
# how often it says grade 1, 2, 3, 4.
GRADES = (0.40, 0.42, 0.11, 0.07)
ERROR_RATES = [
    ((89, 11, 0, 0), (7, 88, 5, 0), (0, 34, 66, 0), (0, 0, 56, 44)),
    ((83, 17, 0, 0), (5, 63, 31, 0), (0, 0, 100, 0), (0, 0, 0, 100)),
    ((100, 0, 0, 0), (11, 79, 11, 0), (0, 40, 20, 40), (0, 0, 67, 33)),
    ((94, 6, 0, 0), (5, 84, 10, 0), (0, 0, 80, 20), (0, 0, 33, 67)),
    ((100, 0, 0, 0), (16, 73, 11, 0), (0, 21, 79, 0), (0, 0, 33, 67)),
]  # fmt: skip
ROUNDING = 0.005  # half of the last digit


def diagnoses() -> dict[str, dict[str, int]]:
    """Fleiss' table as item -> rater -> value; who said what is not known, so the diagnoses are dealt out in order."""
    values = {}
    for n, counts in enumerate(PATIENTS):
        said = [kind for kind, count in enumerate(counts) for _ in range(int(count))]
        values[f"p{n}"] = {f"r{place}": kind for place, kind in enumerate(said)}
    return values


def grants() -> dict[str, dict[str, str]]:
    """The fifty grants as item -> rater -> value."""
    return {f"g{n}": dict(zip(("a", "b"), pair, strict=True)) for n, pair in enumerate(GRANTS)}


def anaesthetists() -> list[Rating]:
    """The 315 assessments as votes: grade 1, 2, 3, 4 is "A", "B", "tie", "both_bad"."""
    return [
        Rating(
            item_id=f"p{n}", rater=f"o{max(1, place - 2)}", choice=truth.VERDICTS[int(grade) - 1], helpfulness=None,
            harmlessness=None, task_fit=None, seconds=1.0, left="A", simulated=False, created_at="1979",
        )
        for n, row in enumerate(FITNESS, start=1)
        for place, grade in enumerate(row, start=1)
    ]  # fmt: skip


def error_rates() -> tuple[list[dict], list[dict]]:
    """A row and a check: how far our estimates are from those that Dawid and Skene's model was published with."""
    found = truth.find_truth(anaesthetists(), smoothing=0)
    published = [*GRADES, *(share / 100 for tables in ERROR_RATES for row in tables for share in row)]
    ours = [*found.prior.values(), *(found.tables[f"o{n}"][true][said] for n, true, said in _cells())]
    off = np.abs(np.subtract(ours, published))
    row = {"example": "dawid_skene_1979", "estimates": len(ours), "largest_difference": float(off.max())}
    spread = [float(off.min()), float(off.max())]
    return [row], [check("dawid_skene_1979_off_by", float(off.max()), "<=", ROUNDING, n=len(ours), spread=spread)]


def _cells() -> Iterator[tuple[int, str, str]]:
    return itertools.product(range(1, len(ERROR_RATES) + 1), truth.VERDICTS, truth.VERDICTS)


def coefficients() -> tuple[list[dict], list[dict]]:
    """Rows and checks: alpha, Fleiss' and Cohen's kappa of the published examples."""
    found = {
        f"alpha_{level}_krippendorff_2011": (agreement.krippendorff_alpha(OBSERVERS, level, seed=SEED), alpha)
        for level, alpha in ALPHAS.items()
    }
    found["fleiss_kappa_1971"] = (agreement.fleiss_kappa(diagnoses(), seed=SEED), FLEISS)
    found["cohen_kappa_fifty_grants"] = (agreement.cohen_kappa(grants(), "a", "b", seed=SEED), COHEN)
    rows = [{"example": name, "ours": one.value, "published": known} for name, (one, known) in found.items()]
    return rows, [
        check(name, round(one.value, DIGITS), "==", known, n=one.items, spread=list(one.interval))
        for name, (one, known) in found.items()
    ]


def hh_rlhf(path: Path = HH) -> tuple[list[dict], list[dict]]:
    """A row and checks: the known faults of hh-rlhf harmless (test); a row with the reason where it is not there."""
    if not path.is_file():
        return [{"set": "hh-rlhf harmless", "left out": f"no file {path.name} in shared/data beside the project"}], []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    found = audit_pairs([split_transcript(pair["chosen"], pair["rejected"]) for pair in pairs])
    n, longer = found.n, round(found.chosen_longer * found.n)
    row = {"set": "hh-rlhf harmless", "pairs": n, "equal answers": len(found.equal)}
    row |= {"contradictions": len(found.contradictions), "chosen longer": found.chosen_longer}
    differ, empty = len(found.prompts_differ), len(found.empty)
    return [row], [
        check("hh_rlhf_prompts_differ", differ, "==", 5, n=n, spread=[differ, differ]),
        check("hh_rlhf_empty_sides", empty, "==", 4, n=n, spread=[empty, empty]),
        check("hh_rlhf_chosen_longer", round(found.chosen_longer, 2), "==", 0.44, n=n, spread=list(wilson(longer, n))),
    ]
