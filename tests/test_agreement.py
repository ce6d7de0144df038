"""Agreement, held to examples that were published with their result, and to cases worked by hand."""

import pytest
from test_ratings import rating

from benchmarks.cases import published
from ftlib import agreement as agree


@pytest.mark.parametrize(("level", "alpha"), published.ALPHAS.items())
def test_alpha_of_krippendorffs_example(level, alpha):
    found = agree.krippendorff_alpha(published.OBSERVERS, level, seed=1)
    assert found.value == pytest.approx(alpha, abs=0.0006)
    assert found.interval[0] < found.value < found.interval[1]
    assert found.items == 11  # unit 12 has one value only
    assert found.raters == ("a", "b", "c", "d")


def test_fleiss_kappa_of_the_psychiatrists():
    """P_bar = 0.556 (mean of the patients' shares of agreeing pairs), P_e = 0.220 (shares of the five diagnoses,
    26, 26, 30, 55, 43 of 180, squared: 0.0209 + 0.0209 + 0.0278 + 0.0934 + 0.0571), so (0.556 - 0.220) / 0.780 = 0.430.
    """
    found = agree.fleiss_kappa(published.diagnoses(), seed=1)
    assert found.value == pytest.approx(0.430, abs=0.0005)
    assert found.interval[0] < 0.430 < found.interval[1]
    assert found.items == 30


def test_fleiss_kappa_takes_the_items_with_the_usual_number_of_ratings():
    """Two items with three ratings, one with two, which is left out.

    P = (1/3 + 1) / 2 = 2/3, P_e = (2/6)^2 + (4/6)^2 = 5/9; (2/3 - 5/9) / (4/9) = 1/4.
    """
    values = {"i": dict(a="A", b="A", c="B"), "j": dict(a="B", b="B", c="B"), "k": dict(a="A", b="A")}
    found = agree.fleiss_kappa(values, seed=1)
    assert found.value == pytest.approx(1 / 4)
    assert (found.items, found.raters) == (2, ("a", "b", "c"))


def test_cohen_kappa_of_fifty_grants():
    """The worked example of Wikipedia's "Cohen's kappa": 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no.

    p_o = 35/50 = 0.7; p_e = 25/50 * 30/50 + 25/50 * 20/50 = 0.5; kappa = 0.2 / 0.5 = 0.4.
    """
    found = agree.cohen_kappa(published.grants(), "a", "b", seed=1)
    assert found.value == pytest.approx(0.4)
    # Large-sample error: sqrt(p_o (1 - p_o) / n) / (1 - p_e) = 0.0648 / 0.5 = 0.130, so about 0.15 to 0.65
    assert found.interval == pytest.approx((0.15, 0.65), abs=0.05)


def test_cohen_kappas_come_with_the_least_agreeing_pair_first():
    values = published.by_item({"ann": "AABBAB", "bob": "AABBAA", "cat": "ABABAB", "dan": "......"})
    found = agree.cohen_kappas(values, seed=1, resamples=50)
    assert [one.raters for one in found] == [("bob", "cat"), ("ann", "cat"), ("ann", "bob")]
    assert found[-1].value == pytest.approx(2 / 3)  # p_o = 5/6, p_e = 1/2 * 4/6 + 1/2 * 2/6 = 1/2


def test_simulated_votes_do_not_count_where_people_voted_nor_do_adjudicators():
    """i1: ann and bob differ, whatever three programs say there. i2: two programs agree. i3: ann alone says nothing.

    Percent: (0 + 1) / 2. With all votes counted it would be i1 4/10 (A A A A against B), i2 1, i3 1.
    """
    people = [rating("i1", "ann", "A"), rating("i1", "bob", "B"), rating("i3", "ann", "B")]
    programs = [
        rating(item, f"sim-{n}", choice, simulated=True)
        for item, choice, count in (("i1", "A", 3), ("i2", "B", 2), ("i3", "B", 2))
        for n in range(count)
    ]
    lead = [rating("i1", "adjudicator:lead", "A"), rating("i2", "adjudicator:lead", "A")]
    found = agree.agreement([*people, *programs, *lead], seed=1, resamples=50)
    assert (found.percent, found.items, found.ratings) == (0.5, 2, 4)
    assert found.basis == "human and simulated raters"
    assert agree.values_of([*people, *programs, *lead]) == {
        "i1": {"ann": "A", "bob": "B"}, "i2": {"sim-0": "B", "sim-1": "B"},
    }  # fmt: skip
    assert agree.agreement(people, seed=1, resamples=50).basis == "human raters"


def test_where_everything_is_simulated_every_vote_counts():
    given = [rating("i1", f"sim-{n}", choice, simulated=True) for n, choice in enumerate("AAB")]
    assert agree.people_first(given) == given
    assert agree.agreement(given, seed=1, resamples=50).percent == pytest.approx(1 / 3)


def test_two_raters_who_only_say_one_thing_have_no_kappa():
    values = published.by_item({"ann": "AAAA", "bob": "AAAA"})
    for found in (agree.cohen_kappa(values, "ann", "bob", seed=1), agree.fleiss_kappa(values, seed=1)):
        assert (found.value, found.interval, found.items) == (None, None, 4)
    assert agree.krippendorff_alpha(values, "nominal", seed=1).value is None
    assert agree.fleiss_kappa({}, seed=1).items == agree.krippendorff_alpha({}, "nominal", seed=1).items == 0


def test_rubric_marks_are_ordinal_and_missing_marks_are_left_out():
    """-1 against 1 must cost more than 0 against 1: the same share of equal marks, a lower alpha."""
    near, far = [(1, 1), (-1, -1), (0, 0), (0, 1)], [(1, 1), (-1, -1), (0, 0), (-1, 1)]
    alphas = []
    for marks in (near, far):
        votes = [
            rating(f"c{n}", rater, "A", helpfulness=mark)
            for n, pair in enumerate([*marks, (None, 1)])
            for rater, mark in zip(("ann", "bob"), pair, strict=True)
        ]
        found = agree.agreement(votes, seed=1, dimension="helpfulness")
        assert (found.percent, found.items, found.ratings) == (0.75, 4, 8)
        alphas.append(found.alpha)
    assert alphas[0] > alphas[1]


def test_an_unknown_dimension_is_named():
    with pytest.raises(ValueError, match="'tone'; expected one of choice, helpfulness, harmlessness, task_fit"):
        agree.values_of([], "tone")
