"""Are planted raters found, and honest teams left alone? Simulated teams of 8, and everything in them is simulated.

A team rates 320 items, three ratings an item, and 32 hidden gold items that all eight get: 152 votes a rater. Six of a
planted team are honest, two are planted, of different kinds in turn. A rater counts as found when any flag names it.
The rules (`ftlib/rater_flags.py`) were tuned on seeds from 900,000; reported are seeds 0 to 49 and 1,000 to 1,199. One
row for smaller teams (80 items, 62 votes a rater) says what fewer votes cost; it has no target.
"""

import itertools
from collections import Counter

import numpy as np

from benchmarks import check
from ftlib.gates import wilson
from ftlib.planted import Kind, team_votes
from ftlib.rater_flags import Test, flag_raters

KINDS: tuple[Kind, ...] = ("random", "one_side", "fast", "copying", "flipped", "longer")
FLAG_OF = {"random": "guessing"} | {kind: kind for kind in KINDS[1:]}
ITEMS, GOLD, OVERLAP, RATERS = 320, 32, 3, 8
PAIRS = list(itertools.combinations(KINDS, 2))  # 15 pairs of kinds, in turn over the teams
TEAMS = range(50)
HONEST_TEAMS = range(1_000, 1_200)


def team(seed: int, planted: tuple[Kind, ...] = (), *, n_items: int = ITEMS) -> tuple[dict[str, Kind], list[Test]]:
    """One team: who is planted, and the flags that were raised."""
    rng = np.random.default_rng(seed)
    items = [f"item-{number}" for number in range(n_items)]
    gold = [f"gold-{number}" for number in range(GOLD)]
    truth = {item: str(rng.choice(["A", "B", "tie"], p=[0.44, 0.44, 0.12])) for item in items + gold}
    # 44 % of the better answers are the longer ones, as in hh-rlhf harmless
    longer = {item: side if rng.random() < 0.44 else "AB"[side == "A"] for item, side in truth.items() if side != "tie"}
    longer |= {item: str(rng.choice(["A", "B"])) for item in truth if item not in longer}
    kinds: list[Kind] = [*planted, *["honest"] * (RATERS - len(planted))]
    named = {f"r{number}": kinds[place] for number, place in enumerate(rng.permutation(RATERS))}
    votes = team_votes(truth, named, seed=seed, overlap=OVERLAP, everybody=gold, longer=longer)
    return named, flag_raters(votes, gold={item: truth[item] for item in gold}, longer=longer)


def planted_teams(seeds: range = TEAMS, *, n_items: int = ITEMS) -> tuple[list[dict], list[dict]]:
    """Rows (one a kind) and checks: precision and recall of the flags over teams with two planted raters each."""
    of_kind, found, named_right = Counter(), Counter(), Counter()
    false_names: Counter = Counter()
    for place, seed in enumerate(seeds):
        kinds, flags = team(seed, PAIRS[place % len(PAIRS)], n_items=n_items)
        flagged = {flag.rater for flag in flags}
        for rater, kind in kinds.items():
            if kind == "honest":
                false_names.update(flag.name for flag in flags if flag.rater == rater)
                found["honest"] += rater in flagged
                continue
            of_kind[kind] += 1
            found[kind] += rater in flagged
            named_right[kind] += any(flag.rater == rater and flag.name == FLAG_OF[kind] for flag in flags)
    rows = [
        {"planted": kind, "raters": of_kind[kind], "found": found[kind], "by the right name": named_right[kind]}
        for kind in KINDS
    ]
    honest = len(seeds) * RATERS - of_kind.total()
    rows.append({"planted": "honest", "raters": honest, "found": found["honest"], "flags": dict(false_names)})
    hits = sum(found[kind] for kind in KINDS)
    return rows, [
        _share("planted_raters_recall", hits, of_kind.total(), 0.95),
        _share("planted_raters_precision", hits, hits + found["honest"], 0.95),
    ]


def small_teams(seeds: range = TEAMS) -> tuple[list[dict], list[dict]]:
    """A row: how many planted raters a quarter of the items still finds."""
    rows, _ = planted_teams(seeds, n_items=ITEMS // 4)
    found = {row["planted"]: f"{row['found']} of {row['raters']}" for row in rows}
    return [{"planted": "two a team", "items": ITEMS // 4, "found": found}], []


def honest_teams(seeds: range = HONEST_TEAMS) -> tuple[list[dict], list[dict]]:
    """A row and a check: the share of honest teams that raise no flag."""
    flags = [flag for seed in seeds for flag in team(seed)[1]]
    quiet = sum(not team(seed)[1] for seed in seeds) if flags else len(seeds)
    row = {"planted": "none", "teams": len(seeds), "teams without a flag": quiet}
    return [row | {"flags": dict(Counter(flag.name for flag in flags))}], [
        _share("honest_teams_without_a_flag", quiet, len(seeds), 0.95)
    ]


def _share(id: str, count: int, n: int, target: float) -> dict:
    return check(id, count / n if n else 0.0, ">=", target, n=n, spread=list(wilson(count, n)) if n else [0.0, 1.0])


if __name__ == "__main__":
    for rows, checks in (planted_teams(), small_teams(), honest_teams()):
        for line in [*rows, *checks]:
            print(line)
