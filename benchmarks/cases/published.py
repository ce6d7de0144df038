"""Examples that were published with their result: agreement of raters, and the known faults of a public set of pairs.

A published number is right when ours, rounded to as many digits, is the same.
"""

import gzip
import json
from pathlib import Path

from benchmarks import check
from ftlib import agreement
from ftlib.gates import wilson
from ftlib.pair_audit import audit_pairs, split_transcript

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
