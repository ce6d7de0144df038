"""Desk cases that need one to six calls: orders that were moved to another number, and records already at hand.

A usual case needs two calls, a look-up and an action. Here the number in the message may be an old one: `find_order`
then names the one that it was moved to, and the record comes at the end of the trail. Each such step is one more call
that must be right before the decision can be. In a case of one call a colleague has pasted the record into the message.
Tools, prompts and decisions are the desk's own, so what differs between cases of one and of four calls is their length.

Left out on purpose: branches. On a trail there is one next call, so that the length of a case is one number.
"""

from dataclasses import replace

import numpy as np

from ftlib.desk import MAX_CALLS, OUTCOMES, Case, make_cases

LAST = 4  # cases of so many calls and more are counted together


def make_long(n: int, *, seed: int, held_out: bool = False, max_level: int = 1, longest: int = 4) -> list[Case]:
    """n cases, balanced over outcomes and over the calls that they need, 1 to `longest`.

    Outcomes take turns, and the k-th case of the j-th outcome needs 1 + (k + j) mod `longest` calls: with four lengths,
    any four in a row have four outcomes and four lengths, as far as the cases last.

    Args:
        held_out, max_level: as in `desk.make_cases`.
        longest: the most calls that a case needs, at most `desk.MAX_CALLS`.

    Raises:
        ValueError: as `desk.make_cases`, or a `longest` that the desk does not allow.
    """
    if not 1 <= longest <= MAX_CALLS:
        raise ValueError(f"longest: expected 1 to {MAX_CALLS} calls, the most that the desk takes, got {longest}")
    rng = np.random.default_rng([seed, int(held_out), 4])
    made = make_cases(n, seed=seed, held_out=held_out, max_level=max_level)
    known = {case.order_id for case in made}
    waiting = {outcome: [case for case in made if case.outcome == outcome] for outcome in OUTCOMES}
    rounds = max(map(len, waiting.values()))
    cases = []
    for k in range(rounds):
        for j, queue in enumerate(waiting.values()):
            if k < len(queue):
                cases.append(_lengthened(queue[k], 1 + (k + j) % longest, rng, known))
    return cases


def _lengthened(case: Case, calls: int, rng: np.random.Generator, known: set[str]) -> Case:
    case = replace(case, id=f"{case.id}-{calls}")
    if calls == 1:
        return replace(case, told=True, message=f"{case.message} [A colleague has looked it up: {case.record()}]")
    trail: list[str] = []
    while len(trail) < calls - 2:
        number = f"TH-{rng.integers(10000, 99999)}"
        if number not in known:
            known.add(number)
            trail.append(number)
    first = (*trail, case.order_id)[0]
    return replace(case, trail=tuple(trail), message=case.message.replace(case.order_id, first))


def length_of(case: Case) -> str:
    """The calls that a case needs, as a name: "1", "2", "3", and "4+" for more.

    Example:
        >>> [length_of(case) for case in make_long(4, seed=1)]
        ['1', '2', '3', '4+']
    """
    return str(case.needed_calls) if case.needed_calls < LAST else f"{LAST}+"


def by_length(cases: list[Case]) -> dict[str, list[int]]:
    """Places in the list by the calls that a case needs, the shortest cases first."""
    places: dict[str, list[int]] = {}
    for n, case in enumerate(cases):
        places.setdefault(length_of(case), []).append(n)
    return dict(sorted(places.items()))
