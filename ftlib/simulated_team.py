"""A simulated team for items that others rated: the votes it would give, through the same sessions as a person.

Each rater follows the rubric judge and slips on a share of the items that gives the agreement asked for. So one can
train on its labels and on the recorded ones and compare the two models: see notebook 03b.

Left out on purpose: biases with a direction (position, length), which `planted` has, and marks of the rubric.
"""

from collections.abc import Callable, Mapping, Sequence

from ftlib.judges import Rubric, compare, rubric_score
from ftlib.label_noise import right_from_agreement
from ftlib.ratings import replay_apart, simulated_rater
from ftlib.records import Candidate, Rating

GOOD_ENOUGH = 0.3  # of `rubric_score`: where neither answer reaches it, a rater says "both bad"


def by_rubric(rubrics: Mapping[str, Rubric]) -> Callable[[Candidate], float | None]:
    """A judge of candidates for `simulated_rater`: 1 where A is better, 0 where B is, 0.5 a tie, None both bad.

    Args:
        rubrics: prompt id -> rubric.

    Raises:
        ValueError: when it is asked about a prompt without a rubric.
    """

    def judge(item: Candidate) -> float | None:
        if item.prompt_id not in rubrics:
            raise ValueError(f"candidate {item.id!r}: no rubric for its prompt {item.prompt_id!r}; give all of them")
        rubric = rubrics[item.prompt_id]
        if max(rubric_score(rubric, answer) for answer in (item.answer_a, item.answer_b)) < GOOD_ENOUGH:
            return None
        return compare(rubric, item.answer_a, item.answer_b)

    return judge


def slips_for(agreement: float) -> float:
    """The `noise` of simulated raters of whom two agree on this share of two-answer items.

    A slip is a draw among A, B and tie, so one in three is right all the same: right = 1 - noise * 2/3.

    Example:
        0.63 (a crowd) -> each is right on 0.755 -> 0.368.

    Raises:
        ValueError: agreement outside 0.5..1.
    """
    return 1.5 * (1 - right_from_agreement(agreement))


def team_votes(
    items: Sequence[Candidate],
    judge: Callable[[Candidate], float | None],
    *,
    agreement: float,
    seed: int,
    raters: int = 3,
) -> list[Rating]:
    """The votes of a simulated team, every item by every rater, given through `RatingSession` into a store of its own.

    Args:
        judge: as `by_rubric` makes one.
        agreement: of two raters, in 0.5..1; sets their slips.
        seed: of sides and slips.

    Returns:
        len(items) * raters votes, each marked as simulated.
    """
    noise = slips_for(agreement)
    team = {
        f"sim-{number}": simulated_rater(judge, seed=10 * seed + number, noise=noise, left_bias=0.0)
        for number in range(1, raters + 1)
    }
    return replay_apart(items, team, seed=seed, simulated=True)[1]
