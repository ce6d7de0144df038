"""From votes to pairs: each step of the waterfall by hand."""

from collections import Counter
from types import SimpleNamespace

import pytest
from notebook_cells import run_cell
from notebook_runs import ROOT
from test_ratings import item, rating

from ftlib import pairs
from ftlib.pair_rules import OVER_CAP, UNBALANCED, side_counts
from ftlib.pairs import CONTRADICTED, REASONS, balanced_order, build_pairs, decided, majority, vote_id
from ftlib.parameters import notebook_parameters
from ftlib.records import Candidate, Rating, data_path, load_jsonl


def votes(item_id: str, choices: str, **changes):
    """One letter a rater: A, B, t(ie), b(oth bad), s(kip)."""
    names = {"t": "tie", "b": "both_bad", "s": "skip"}
    return [rating(item_id, f"r{n}", names.get(letter, letter), **changes) for n, letter in enumerate(choices, start=1)]


@pytest.mark.parametrize(
    ("choices", "verdict"),
    [
        ("AAB", "A"),
        ("AAt", "A"),
        ("B", "B"),
        ("AB", "no majority"),
        ("At", "no majority"),
        ("ABt", "no majority"),
        ("ABttt", "tie"),
        ("bbA", "both bad"),
        ("ss", "skipped"),
        ("Ass", "A"),
        ("", "no votes"),
    ],
)
def test_majority(choices, verdict):
    assert majority(votes("c0", choices)) == verdict


def distinct(number: int, **changes):
    """A candidate that shares no 3-shingle with another number's."""
    letters = [f"w{number}x{place}" for place in range(12)]
    texts = {
        "prompt": " ".join(letters[:4]),
        "answer_a": " ".join(letters[4:8]),
        "answer_b": " ".join(letters[8:]),
    }
    return item(number, **texts | changes)


def test_a_pair_traces_back_to_its_votes_and_sources():
    candidate = distinct(1, source_a="sampled", source_b="authored")
    (pair,) = build_pairs([candidate], votes("c1", "BAB", simulated=True), seed=1).pairs
    assert (pair.chosen, pair.rejected) == (candidate.answer_b, candidate.answer_a)
    assert (pair.chosen_source, pair.rejected_source) == ("authored", "sampled")
    assert pair.votes == ["c1/r1=B", "c1/r2=A", "c1/r3=B"]
    assert pair.basis == "simulated raters"
    assert (pair.id, pair.prompt, pair.kind, pair.cluster) == ("c1", candidate.prompt, "production", "k1")


def test_the_waterfall_counts_every_item_once():
    """Ten candidates: 8 reasons take one each, and two pairs stay."""
    first = distinct(1)
    near = first.answer_b + " more"  # 13 words against 12: 10 shared shingles of 11
    candidates = [
        first,
        distinct(2),
        distinct(3),
        distinct(4),
        distinct(5),
        distinct(6),
        distinct(7, answer_b="  "),
        distinct(8, prompt=first.prompt, answer_a=first.answer_a.upper(), answer_b=f" {first.answer_b}"),
        distinct(9, prompt=first.prompt, answer_a=first.answer_a, answer_b=near),
        distinct(10),
    ]
    given = [
        *votes("c1", "AAB"),
        *votes("c3", "ss"),
        *votes("c4", "bb"),
        *votes("c5", "tt"),
        *votes("c6", "AB"),
        *votes("c7", "A"),
        *votes("c8", "A"),
        *votes("c9", "A"),
        *votes("c10", "B"),
    ]
    made = build_pairs(candidates, given, seed=1)
    assert [pair.id for pair in made.pairs] == ["c1", "c10"]
    assert [(step.name, step.dropped, step.left) for step in made.waterfall] == [
        ("candidates", 0, 10),
        ("no votes", 1, 9),
        ("skipped", 1, 8),
        ("both bad", 1, 7),
        ("tie", 1, 6),
        ("no majority", 1, 5),
        ("empty or equal answers", 1, 4),
        ("contradicted", 0, 4),
        ("duplicate", 1, 3),
        ("near-duplicate", 1, 2),
        ("over the synthetic share", 0, 2),
        ("one side too many", 0, 2),
    ]
    one_each = [reason for reason in REASONS if reason not in (CONTRADICTED, OVER_CAP, UNBALANCED)]
    assert made.dropped == dict(zip(["c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"], one_each, strict=True))
    assert made.near_duplicates == pytest.approx(1 / 3)  # c9, of the distinct c1, c9 and c10


def test_answers_that_differ_in_spaces_and_case_are_equal():
    candidate = distinct(1, answer_a="We can help.", answer_b="we  can help. ")
    assert build_pairs([candidate], votes("c1", "AAA"), seed=1).dropped == {"c1": "empty or equal answers"}


def test_one_prompt_with_one_chosen_and_two_rejected_answers_gives_two_pairs():
    candidates = [distinct(1), distinct(2, prompt=distinct(1).prompt, answer_a=distinct(1).answer_a)]
    assert len(build_pairs(candidates, [*votes("c1", "A"), *votes("c2", "A")], seed=1).pairs) == 2


def test_people_come_before_simulated_raters():
    human = rating("c1", "ann", "B")
    made = build_pairs([distinct(1)], [*votes("c1", "AAA", simulated=True), human], seed=1)
    assert made.pairs[0].votes == ["c1/ann=B"]
    assert made.pairs[0].basis == "human raters"


def lead(item_id: str, choice: str, name: str = "lead", **changes):
    return rating(item_id, f"adjudicator:{name}", choice, **changes)


def test_an_adjudicators_verdict_stands_in_place_of_the_raters():
    """c1: 2 to 1 for A, the lead says B. c2: a split that the lead settles. c3: the lead drops it. c4: as voted."""
    items = [distinct(n) for n in range(1, 5)]
    given = [*votes("c1", "AAB"), *votes("c2", "AB"), *votes("c3", "AAA"), *votes("c4", "A")]
    made = build_pairs(items, [*given, lead("c1", "B"), lead("c2", "A"), lead("c3", "both_bad")], seed=1)
    assert [(pair.id, pair.votes) for pair in made.pairs] == [
        ("c1", ["c1/adjudicator:lead=B"]), ("c2", ["c2/adjudicator:lead=A"]), ("c4", ["c4/r1=A"]),
    ]  # fmt: skip
    assert [pair.chosen for pair in made.pairs] == [items[0].answer_b, items[1].answer_a, items[3].answer_a]
    assert (made.adjudicated, made.dropped) == (3, {"c3": "both bad"})
    assert [(step.name, step.dropped, step.left) for step in made.waterfall[:2]] == [
        ("candidates", 0, 4), ("settled by adjudication: 3", 0, 4),
    ]  # fmt: skip
    assert decided(items, [*given, lead("c2", "A")]) == 4


def test_without_adjudications_nothing_is_said_of_them():
    made = build_pairs([distinct(1)], votes("c1", "AAB"), seed=1)
    assert made.adjudicated == 0 and [step.name for step in made.waterfall] == ["candidates", *REASONS]
    skipped = build_pairs([distinct(1)], [*votes("c1", "AAB"), lead("c1", "skip", reason="hard")], seed=1)
    assert (skipped.adjudicated, skipped.pairs[0].chosen) == (0, distinct(1).answer_a)


def test_adjudicators_who_differ_settle_nothing_and_a_program_settles_no_vote_of_people():
    two = build_pairs([distinct(1)], [*votes("c1", "AAA"), lead("c1", "A"), lead("c1", "B", "deputy")], seed=1)
    assert (two.pairs, two.dropped, two.adjudicated) == ([], {"c1": "no majority"}, 1)
    program = build_pairs([distinct(1)], [*votes("c1", "AAA"), lead("c1", "B", simulated=True)], seed=1)
    assert (program.pairs[0].votes, program.adjudicated) == (["c1/r1=A", "c1/r2=A", "c1/r3=A"], 0)
    person = build_pairs([distinct(1)], [*votes("c1", "AAA", simulated=True), lead("c1", "B")], seed=1)
    assert (person.pairs[0].votes, person.pairs[0].basis) == (["c1/adjudicator:lead=B"], "human raters")


def test_an_adjudicated_item_wins_a_contradiction_against_more_votes():
    given = [*votes("c1", "AAA"), *votes("c2", "AB"), lead("c2", "A")]
    made = build_pairs([distinct(1), asked_again(2, 1)], given, seed=1)
    assert (made.dropped, [pair.votes for pair in made.pairs]) == (
        {"c1": CONTRADICTED}, [["c2/adjudicator:lead=A"]],
    )  # fmt: skip


def asked_again(number: int, of: int, *, swapped: bool = True, **changes):
    """Another item with the same prompt and answers, which stand the other way round."""
    first = distinct(of)
    answers = (first.answer_b, first.answer_a) if swapped else (first.answer_a, first.answer_b)
    return distinct(number, prompt=first.prompt, answer_a=answers[0].upper(), answer_b=answers[1], **changes)


@pytest.mark.parametrize(
    ("first", "again", "stay"),
    [
        ("AAA", "AAB", ["c1"]),  # 3 for the first answer, 2 - 1 for the second
        ("AAB", "AAA", ["c2"]),
        ("AA", "AA", []),  # a draw
        ("AAt", "A", ["c1"]),  # ties are no votes against: 2 to 1
        ("AA", "BB", ["c1"]),  # the same answer both times: a duplicate, no contradiction
    ],
)
def test_a_contradiction_is_settled_by_the_votes_of_both_items(first, again, stay):
    made = build_pairs([distinct(1), asked_again(2, 1)], [*votes("c1", first), *votes("c2", again)], seed=1)
    assert [pair.id for pair in made.pairs] == stay
    gone = {"c1", "c2"} - set(stay)
    assert {made.dropped[name] for name in gone} == ({"duplicate"} if again == "BB" else {CONTRADICTED})


def test_two_items_outvote_a_contrary_third():
    """1 + 1 against 1: the first direction stays, and of its two equal pairs one is a duplicate."""
    items = [distinct(1), asked_again(2, 1), asked_again(3, 1, swapped=False)]
    made = build_pairs(items, [*votes("c1", "A"), *votes("c2", "A"), *votes("c3", "A")], seed=1)
    assert made.dropped == {"c2": CONTRADICTED, "c3": "duplicate"}


def test_people_settle_a_contradiction_against_more_simulated_votes():
    given = [*votes("c1", "AAA", simulated=True), *votes("c2", "A")]
    made = build_pairs([distinct(1), asked_again(2, 1)], given, seed=1)
    assert (made.dropped, [pair.basis for pair in made.pairs]) == ({"c1": CONTRADICTED}, ["human raters"])


def test_a_circle_of_preferences_goes_and_its_neighbours_stay():
    """On one prompt x over y, y over z, z over x; and w over x, which is on no circle."""
    texts = {letter: " ".join(f"{letter}{n}" for n in range(9)) for letter in "wxyz"}
    items = [
        distinct(n, prompt="p q r s", answer_a=texts[a], answer_b=texts[b])
        for n, (a, b) in enumerate(["xy", "yz", "zx", "wx"])
    ]
    made = build_pairs(items, [vote for n in range(4) for vote in votes(f"c{n}", "A")], seed=1)
    assert [pair.id for pair in made.pairs] == ["c3"]
    assert made.dropped == dict.fromkeys(("c0", "c1", "c2"), CONTRADICTED)


def mixed(counts: dict[tuple[str, str], int]):
    """(kind, source of the chosen answer) -> how many; votes of item n: the later, the clearer (A A B to A A A)."""
    items = [
        distinct(n, kind=kind, source_a=source)
        for n, (kind, source) in enumerate(key for key, count in counts.items() for _ in range(count))
    ]
    return items, [vote for n in range(len(items)) for vote in votes(f"c{n}", "AAA" if n % 2 else "AAB")]


def test_the_synthetic_cap_by_hand():
    """2 authored and 6 model-written pairs, at most 60 % synthetic: 3 of 5 may stay; 4 of 6 would be 67 %.

    Three go: those with a vote against first, which are three of the six (c2, c4, c6).
    """
    items, given = mixed({("harmful", "authored"): 2, ("production", "greedy"): 6})
    made = build_pairs(items, given, seed=1, synthetic_cap=0.6)
    assert made.dropped == dict.fromkeys(("c2", "c4", "c6"), OVER_CAP)
    assert made.synthetic_share == 0.6
    assert made.waterfall[-2].dropped == 3 and made.waterfall[-1].left == 5
    assert build_pairs(items, given, seed=1, synthetic_cap=1.0).dropped == {}
    assert build_pairs(items, given, seed=1, synthetic_cap=0.0).synthetic_share == 0.0


def test_balance_by_hand():
    """2 adversarial and 7 safe pairs, at most twice as many: 3 go, model-written ones (c5 to c8) first."""
    items, given = mixed({("harmful", "authored"): 2, ("production", "authored"): 3, ("borderline", "greedy"): 4})
    made = build_pairs(items, given, seed=1, balance=2)
    assert side_counts(made.pairs) == {"safe": 4, "adversarial": 2}
    assert set(made.dropped.values()) == {UNBALANCED} and set(made.dropped) < {"c5", "c6", "c7", "c8"}
    assert {"c6", "c8"} < set(made.dropped)  # they have a vote against
    assert build_pairs(items, given, seed=1, balance=3.5).dropped == {}


def test_both_limits_hold_together():
    """8 authored refusals; safe: 2 authored, 6 model-written. At most 30 % synthetic, sides equal.

    With s synthetic pairs, 2 + s are safe and as many adversarial, so s <= 0.3 (4 + 2 s): s = 3, and 5 + 5 pairs.
    """
    items, given = mixed({("harmful", "authored"): 8, ("production", "authored"): 2, ("production", "greedy"): 6})
    made = build_pairs(items, given, seed=1, synthetic_cap=0.3, balance=1)
    assert side_counts(made.pairs) == {"safe": 5, "adversarial": 5}
    assert made.synthetic_share == 0.3
    assert made == build_pairs(items, given, seed=1, synthetic_cap=0.3, balance=1)


def test_a_side_without_pairs_cannot_be_balanced_and_limits_are_checked():
    items, given = mixed({("production", "authored"): 3})
    assert build_pairs(items, given, seed=1, balance=4).pairs == []
    for limits in ({"balance": 0.5}, {"synthetic_cap": 1.1}):
        with pytest.raises(ValueError, match="expected a synthetic_cap from 0 to 1 and a balance >= 1"):
            build_pairs(items, given, seed=1, **limits)


def test_the_notebook_hands_both_limits_on():
    """Its defaults, a cap of 1 and a balance of 0, change no pair; 3 authored and 6 sampled ones at 50 % are 3 + 3."""
    items, given = mixed({("harmful", "authored"): 2, ("production", "authored"): 1, ("production", "greedy"): 6})
    stub = SimpleNamespace(figure=lambda *_: None, waterfall=lambda *_: None)
    names = {"pairs": pairs, "items": items, "votes": given, "seed": 1, "run": stub, "plots": stub,
             "mark": lambda figure: figure, "overall": SimpleNamespace(basis="people")}  # fmt: skip
    made = lambda **limits: run_cell("03_collect_preferences", "pairs.build_pairs(", names | limits)["made"]
    book = notebook_parameters(ROOT / "notebooks" / "03_collect_preferences.ipynb")
    defaults = {name: book[name] for name in ("synthetic_cap", "balance")}
    assert defaults == {"synthetic_cap": 1.0, "balance": 0.0}
    assert made(**defaults) == build_pairs(items, given, seed=1, validation_share=0.1)
    assert made(**defaults | {"synthetic_cap": 0.5}).synthetic_share == 0.5
    assert side_counts(made(**defaults | {"balance": 2.0}).pairs) == {"safe": 4, "adversarial": 2}
    with pytest.raises(ValueError, match="a balance >= 1, got 1.0 and 0.5"):
        made(**defaults | {"balance": 0.5})


def test_every_recorded_pair_traces_back_to_its_votes_and_nothing_is_lost():
    """The playbook's own items and votes: the named votes give the pair's verdict, and every item is accounted for."""
    items = load_jsonl(data_path("preferences/candidates.jsonl"), Candidate)
    given = load_jsonl(data_path("preferences/votes.jsonl"), Rating)
    made = build_pairs(items, given, seed=1, synthetic_cap=0.2)
    by_name = {vote_id(vote): vote for vote in given}
    answers = {one.id: {"A": one.answer_a, "B": one.answer_b} for one in items}
    for pair in made.pairs:
        behind = [by_name[name] for name in pair.votes]
        assert {vote.item_id for vote in behind} == {pair.id}
        assert pair.chosen == answers[pair.id][majority(behind)]
    assert {pair.id for pair in made.pairs} | set(made.dropped) == set(answers)
    assert sum(step.dropped for step in made.waterfall) == len(made.dropped)
    assert made.waterfall[-1].left == len(made.pairs) > 100
    assert OVER_CAP in made.dropped.values() and 0.19 < made.synthetic_share <= 0.2


def test_synthetic_share_by_hand():
    """Chosen: authored, greedy, sampled, an authored over-refusal -> 2 of 4 were sampled from a model."""
    sources = [
        ("authored", "greedy"),
        ("greedy", "sampled"),
        ("sampled", "greedy"),
        ("over-refusal, authored", "sampled"),
    ]
    candidates = [distinct(n, source_a=a, source_b=b) for n, (a, b) in enumerate(sources)]
    made = build_pairs(candidates, [vote for n in range(4) for vote in votes(f"c{n}", "A")], seed=1)
    assert made.synthetic_share == 0.5
    assert [pair.synthetic for pair in made.pairs] == [False, True, True, False]


def test_clusters_are_never_split_and_each_kind_is_set_aside():
    """60 items, 20 a kind, in clusters of 4: a share of 0.2 is one cluster of each kind."""
    kinds = ("production", "harmful", "borderline")
    candidates = [distinct(n, kind=kinds[n % 3], cluster=f"{kinds[n % 3]}-{n // 12}") for n in range(60)]
    given = [vote for n in range(60) for vote in votes(f"c{n}", "A")]
    made = build_pairs(candidates, given, seed=1, validation_share=0.2)
    sides: dict[str, set[str]] = {}
    for pair in made.pairs:
        sides.setdefault(pair.cluster, set()).add(pair.split)
    assert all(len(found) == 1 for found in sides.values())
    assert Counter(pair.kind for pair in made.pairs if pair.split == "validation") == dict.fromkeys(kinds, 4)
    again = build_pairs(candidates, given, seed=1, validation_share=0.2)
    assert again == made
    other = build_pairs(candidates, given, seed=2, validation_share=0.2)
    assert {p.id for p in other.pairs if p.split == "validation"} != {
        p.id for p in made.pairs if p.split == "validation"
    }


def test_a_single_cluster_stays_in_train():
    candidates = [distinct(n, cluster="only") for n in range(5)]
    made = build_pairs(candidates, [vote for n in range(5) for vote in votes(f"c{n}", "A")], seed=1)
    assert {pair.split for pair in made.pairs} == {"train"}


def test_nothing_rated_gives_no_pairs_and_no_shares():
    made = build_pairs([distinct(1)], [], seed=1)
    assert (made.pairs, made.synthetic_share, made.near_duplicates) == ([], None, None)
    assert made.waterfall[-1].left == 0


def test_votes_that_do_not_belong_are_refused():
    with pytest.raises(ValueError, match="ann voted on 'c9', which is not among the 1 candidates"):
        build_pairs([distinct(1)], [rating("c9")], seed=1)
    with pytest.raises(ValueError, match="ann voted twice on 'c1'; give standing votes"):
        build_pairs([distinct(1)], [rating("c1"), rating("c1", choice="B")], seed=1)
    with pytest.raises(ValueError, match="candidate 'c1' is there twice"):
        build_pairs([distinct(1), distinct(1)], [], seed=1)


def test_every_batch_holds_as_many_of_one_group_as_of_the_other():
    groups = ["refuse"] * 10 + ["answer"] * 4
    order = balanced_order(groups, range(14), batch=4, epochs=1, seed=17)
    batches = [order[start : start + 4] for start in range(0, len(order), 4)]
    assert len(batches) == 4  # 14 rows, 4 a batch: 3.5, rounded up
    assert all(Counter(groups[row] for row in batch) == {"refuse": 2, "answer": 2} for batch in batches)
    often = Counter(order)
    assert sum(often[row] for row in range(10)) == 8 and max(often[row] for row in range(10)) == 1
    assert [often[row] for row in range(10, 14)] == [2, 2, 2, 2]  # 8 places for 4 rows
    assert order == balanced_order(groups, range(14), batch=4, epochs=1, seed=17)
    assert order != balanced_order(groups, range(14), batch=4, epochs=1, seed=18)


def test_rows_of_like_length_share_a_batch():
    """Eight rows a group, all drawn once, two batches: the four shortest of each group come together."""
    groups, lengths = ["a", "b"] * 8, [row // 2 for row in range(16)]
    order = balanced_order(groups, lengths, batch=8, epochs=1, seed=1)
    assert {frozenset(order[:8]), frozenset(order[8:])} == {frozenset(range(8)), frozenset(range(8, 16))}


def test_an_odd_place_goes_to_one_group_and_too_many_groups_are_refused():
    order = balanced_order("aab", [1, 1, 1], batch=3, epochs=2, seed=1)
    assert Counter("aab"[row] for row in order) == {"a": 4, "b": 2}
    with pytest.raises(ValueError, match="expected 1 to batch=2 groups, got 3"):
        balanced_order("abc", [1, 1, 1], batch=2, epochs=1, seed=1)
    with pytest.raises(ValueError, match="got 0"):
        balanced_order([], [], batch=2, epochs=1, seed=1)


def test_items_with_a_winner_are_counted():
    items = [distinct(1), distinct(2), distinct(3), distinct(4)]
    given = [*votes("c1", "AAB"), *votes("c2", "AB"), *votes("c3", "B"), *votes("c4", "ttA")]
    assert decided(items, given) == 2
    assert decided(items, []) == 0
