"""Rater quality: calibration, drift, flags, the likeliest verdicts and label noise by hand; planted raters."""

import datetime

import pytest
from test_ratings import rating

from benchmarks.cases import published
from benchmarks.cases import raters as cases
from ftlib import label_noise, rater_flags, raters, truth
from ftlib.gates import pairs_needed
from ftlib.planted import team_votes
from ftlib.ratings import RatingSession, replay, simulated_rater
from ftlib.records import GoldItem, PreferencePair, data_path, load_jsonl
from ftlib.store import open_store

GOLD = load_jsonl(data_path("preferences/gold.jsonl"), GoldItem)
TRAINING = [item for item in GOLD if item.round == "training"]
HIDDEN = {item.id: item.gold for item in GOLD if item.round == "hidden"}


def at(minute: int) -> str:
    start = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return (start + datetime.timedelta(minutes=minute)).isoformat()


def votes_of(rater: str, choices: dict[str, str], **changes) -> list:
    return [
        rating(item, rater, choice, created_at=at(n), **changes) for n, (item, choice) in enumerate(choices.items())
    ]


def other(verdict: str) -> str:
    return "B" if verdict == "A" else "A"


# --- calibration


def gold_round(wrong: int) -> dict[str, str]:
    return {item.id: other(item.gold) if n < wrong else item.gold for n, item in enumerate(TRAINING)}


def test_a_rater_passes_with_twelve_of_sixteen():
    """0.75 * 16 = 12: 4 wrong is a pass, 5 is not; a round that is not finished is open."""
    given = votes_of("four", gold_round(4)) + votes_of("five", gold_round(5)) + votes_of("begun", gold_round(0))[:15]
    found = raters.calibrate(given, GOLD)
    assert {name: one.state for name, one in found.items()} == {"four": "passed", "five": "failed", "begun": "open"}
    assert (found["four"].right, found["four"].n, len(found["five"].missed)) == (12, 16, 5)
    first = TRAINING[0]
    assert found["five"].missed[0] == (first.id, other(first.gold), first.gold, first.explanation)


def test_a_skip_is_no_vote_and_hidden_items_are_no_training():
    given = votes_of("ann", gold_round(0) | {TRAINING[3].id: "skip"}) + votes_of("bob", dict(list(HIDDEN.items())[:5]))
    found = raters.calibrate(given, GOLD)
    assert list(found) == ["ann"]
    assert (found["ann"].state, found["ann"].n) == ("open", 15)


def test_calibration_needs_training_items():
    with pytest.raises(ValueError, match="round 'training', got none"):
        raters.calibrate([], [item for item in GOLD if item.round == "hidden"])


def test_who_passes_the_round():
    """Two items, both must be right (0.75 * 2 = 1.5): (1/3)^2 = 1/9."""
    assert raters.pass_chance(1 / 3, 2) == pytest.approx(1 / 9)
    assert raters.pass_chance(1 / 3, 16) < 0.001 < 0.9 < raters.pass_chance(0.85, 16)


def test_gold_goes_through_the_session_that_all_items_go_through(tmp_path):
    """A simulated rater without slips, who knows the answers, passes."""
    known = {item.id: {"A": 1.0, "B": 0.0, "tie": 0.5}[item.gold] for item in GOLD}
    opened = open_store(tmp_path / "ratings.db")
    session = RatingSession(opened, "sim", raters.gold_candidates(TRAINING), 1, simulated=True)
    replay(session, simulated_rater(lambda item: known[item.id], seed=1, noise=0, left_bias=0))
    found = raters.calibrate(opened.ratings(), GOLD)
    opened.close()
    assert (found["sim"].state, found["sim"].right) == ("passed", 16)


def test_running_accuracy_and_the_rule_to_calibrate_again():
    """20 recent: 12 right has an upper end of 0.78, above 0.75; 11 right one of 0.74, below it."""
    for right, again in ((12, False), (11, True)):
        items = list(HIDDEN.items())[:20]
        given = {item: known if n >= 20 - right else other(known) for n, (item, known) in enumerate(items)}
        found = raters.running_accuracy(votes_of("ann", given), HIDDEN)["ann"]
        assert found.recalibrate is again
        assert found.shares[-1] == found.recent == right / 20
        assert found.shares[0] == 0.0 and len(found.shares) == len(found.intervals) == 20
    few = raters.running_accuracy(votes_of("ann", {item: other(k) for item, k in items[:19]}), HIDDEN)["ann"]
    assert (few.recalibrate, few.recent) == (False, 0.0)  # 19 votes are too few for the rule
    assert raters.running_accuracy(votes_of("ann", {"c0": "A"}), HIDDEN) == {}


# --- drift


def test_windows_follow_time_and_leave_the_rest_over():
    """Five gold votes by time: right, right, wrong, right, right. Windows of two: 2 of 2, 1 of 2; one is left over."""
    items = list(HIDDEN)[:5]
    choices = [HIDDEN[item] if n != 2 else other(HIDDEN[item]) for n, item in enumerate(items)]
    given = votes_of("ann", dict(zip(items, choices, strict=True)))
    found = raters.agreement_windows(list(reversed(given)), gold=HIDDEN, size=2, against="gold")
    assert found == {"ann": [(2, 2), (1, 2)]}


def test_windows_against_the_others_pass_gold_over():
    gold = next(iter(HIDDEN))
    given = [*votes_of("ann", {"i": "A", "j": "B", gold: "A"}), *votes_of("bob", {"i": "A", "j": "A", gold: "A"})]
    given += votes_of("cid", {"i": "A", "j": "A", gold: "A"})
    found = raters.agreement_windows(given, gold=HIDDEN, size=1, against="others")
    assert found == {"ann": [(1, 1), (0, 1)], "bob": [(1, 1)], "cid": [(1, 1)]}  # on j bob and cid have no majority
    with pytest.raises(ValueError, match="against of gold, others, both"):
        raters.agreement_windows(given, against="all")


def test_a_chart_signals_a_fall_and_not_the_common_ups_and_downs():
    """20 of 25 twice: about 0.8. Three sigma of a window alone reach down to 0.8 - 3 * 0.08 = 0.56 = 14 of 25; the
    baseline's own error makes it wider (11 of 25).
    """
    chart = raters.control_chart([(20, 25), (20, 25), (15, 25), (24, 25), (9, 25)])
    assert [one.signal for one in chart] == ["", "", "", "", "low"]
    assert (chart[1].low, chart[2].low) == (None, 11 / 25)
    assert chart[3].share == 0.96
    with pytest.raises(ValueError, match="baseline of 1 window or more"):
        raters.control_chart([], baseline=0)


def test_a_steady_rater_hardly_ever_signals_and_a_drifting_one_does():
    """All chances summed: a rater at 0.8 falls below with 0.2 % of a window or less, averaged over the baselines."""
    from scipy import stats

    steady = fallen = 0.0
    for right in range(51):
        chance = stats.binom.pmf(right, 50, 0.8)
        low = raters.control_chart([(right, 50), (0, 25)], baseline=1)[1].low * 25
        steady += chance * stats.binom.cdf(low - 1, 25, 0.8)
        fallen += chance * stats.binom.cdf(low - 1, 25, 1 / 3)
    assert steady < 0.002 and fallen > 0.65


# --- flags


def test_each_test_by_hand():
    """Ten gold items, all "A", and a rater who says "B" ten times, seven on the left, four too fast.

    guessing: 0 of 10 right, P(<= 0 | 0.6) = 0.4^10. flipped: 10 of 10 wrong, 0.5^10. one_side: 7 of 10 left,
    2 * P(>= 7 | 0.65) > 1, so 1. fast: 4 of 10, P(>= 4 | 0.1) = 0.0128. longer: B is longer on 5 of the 10: openings
    5/10, bound 2 * 0.5 / (2 * 0.5 + 0.5) = 2/3; 5 of 10 mistakes went to the longer answer.
    """
    gold = {f"g{n}": "A" for n in range(10)}
    longer = {item: "B" if n < 5 else "A" for n, item in enumerate(gold)}
    given = [
        rating(item, "ann", "B", left="B" if n < 7 else "A", seconds=1.0 if n < 4 else 9.0)
        for n, item in enumerate(gold)
    ]
    found = {test.name: test for test in rater_flags.rater_tests(given, gold=gold, longer=longer)}
    assert found["guessing"].p == pytest.approx(0.4**10)
    assert found["flipped"].p == pytest.approx(0.5**10)
    assert (found["one_side"].count, found["one_side"].p) == (7, 1.0)
    assert found["fast"].p == pytest.approx(0.0128, abs=5e-5)
    assert (found["longer"].count, found["longer"].n, found["longer"].bound) == (5, 10, pytest.approx(2 / 3))
    assert found["guessing"].p_adjusted == pytest.approx(5 * 0.4**10)  # Holm: the least of five p-values times five


def test_copying_by_hand():
    """Six gold items "A"; ann and bob both say "B" on four, only ann on one: they depart together on 4 of 5.

    P(>= 4 of 5 | 0.4) = 5 * 0.4^4 * 0.6 + 0.4^5 = 0.0870. Bob votes later, so the test is his.
    """
    gold = {f"g{n}": "A" for n in range(6)}
    given = [rating(item, "ann", "B" if n < 5 else "A", created_at=at(n)) for n, item in enumerate(gold)]
    given += [rating(item, "bob", "B" if n < 4 else "A", created_at=at(n + 60)) for n, item in enumerate(gold)]
    (test,) = [test for test in rater_flags.rater_tests(given, gold=gold) if test.name == "copying"]
    assert (test.rater, test.other, test.count, test.n) == ("bob", "ann", 4, 5)
    assert test.p == pytest.approx(0.0870, abs=5e-5)
    same_time = [vote.model_copy(update={"created_at": at(0)}) for vote in given]
    both = [test for test in rater_flags.rater_tests(same_time, gold=gold) if test.name == "copying"]
    assert [(test.rater, test.p) for test in both] == [("ann", pytest.approx(0.174, abs=1e-4)), ("bob", both[0].p)]


def test_what_the_verdict_is_without_a_rater():
    given = {name: rating("i", name, choice) for name, choice in zip("abcd", ["A", "A", "B", "tie"], strict=True)}
    assert rater_flags.verdict(given, "d") == "A"
    assert rater_flags.verdict(given, "a") == ""  # A, B, tie: nobody has two votes
    assert rater_flags.verdict(given, "cd") == "A"
    assert rater_flags.verdict(given, "abd", least=1) == "B"
    assert rater_flags.verdict(given, "", gold={"i": "tie"}) == "tie"
    assert rater_flags.verdict(given, "abcd") == ""


def test_floors_and_longer_answers_come_from_the_texts():
    gold = TRAINING[0].model_copy(update={"prompt": "w " * 60, "answer_a": "w " * 20, "answer_b": "w"})
    assert rater_flags.reading_floors([gold]) == {gold.id: 81 / 20}
    assert rater_flags.longer_answers([gold]) == {gold.id: "A"}
    even = gold.model_copy(update={"prompt": "w", "answer_a": "ab", "answer_b": "cd"})
    assert rater_flags.reading_floors([even]) == {gold.id: 2.0}
    assert rater_flags.longer_answers([even]) == {}


def test_no_votes_no_tests_and_a_second_vote_is_an_error():
    assert rater_flags.flag_raters([]) == []
    with pytest.raises(ValueError, match="ann voted twice on 'c0'"):
        rater_flags.flag_raters([rating(), rating()])


@pytest.mark.parametrize("kind", cases.KINDS)
def test_a_planted_rater_is_found_by_its_own_name(kind):
    kinds, flags = cases.team(700_000, (kind,))  # a seed of neither the tuning nor the report
    (planted,) = [rater for rater, one in kinds.items() if one == kind]
    assert {flag.rater for flag in flags} == {planted}
    assert cases.FLAG_OF[kind] in {flag.name for flag in flags}


def test_honest_teams_raise_no_flag():
    assert [cases.team(seed)[1] for seed in range(710_000, 710_003)] == [[], [], []]


def test_the_cases_report_precision_and_recall():
    rows, checks = cases.planted_teams(range(720_000, 720_002))
    assert [row["planted"] for row in rows] == [*cases.KINDS, "honest"]
    assert [(one["id"], one["n"]) for one in checks][0] == ("planted_raters_recall", 4)


def test_a_team_needs_raters_and_somebody_to_copy():
    with pytest.raises(ValueError, match="overlap from 1 to 1"):
        team_votes({"i": "A"}, {"r": "honest"}, seed=1, overlap=2)
    with pytest.raises(ValueError, match="an honest rater for 'copying'"):
        team_votes({"i": "A"}, {"r": "copying"}, seed=1, overlap=1)


def test_a_drifting_rater_signals_on_the_chart_and_steady_ones_do_not():
    verdicts = {f"i{n}": "AB"[n % 2] for n in range(400)}
    kinds = {f"r{n}": "drifting" if n == 0 else "honest" for n in range(6)}
    given = team_votes(verdicts, kinds, seed=5, overlap=3)
    charts = {r: raters.control_chart(w) for r, w in raters.agreement_windows(given).items()}
    assert {r for r, chart in charts.items() if any(one.signal == "low" for one in chart)} == {"r0"}


# --- the likeliest verdict


def test_one_round_of_em_by_hand():
    """Two raters who vote A and B, three items, no smoothing: i1 = (A, A), i2 = (B, B), i3 = (A, B).

    To begin with P(A) = 1, 0, 1/2. M step: prior 1/2 each. ann says A on i1 and i3: P(A | A) = (1 + 1/2) / (3/2) = 1,
    P(A | B) = (1/2) / (3/2) = 1/3; bob: P(A | A) = 1 / (3/2) = 2/3, P(A | B) = 0.
    E step: i1: A: 1/2 * 1 * 2/3, B: 1/2 * 1/3 * 0 -> 1. i3 = (A, B): A: 1/2 * 1 * 1/3; B: 1/2 * 1/3 * 1 -> 1/2.
    """
    given = votes_of("ann", {"i1": "A", "i2": "B", "i3": "A"}) + votes_of("bob", {"i1": "A", "i2": "B", "i3": "B"})
    found = truth.find_truth(given, smoothing=0, rounds=1)
    assert found.prior == {"A": pytest.approx(1 / 2), "B": pytest.approx(1 / 2)}
    assert found.tables["ann"]["A"]["A"] == pytest.approx(1) and found.tables["ann"]["B"]["A"] == pytest.approx(1 / 3)
    assert found.tables["bob"]["A"]["A"] == pytest.approx(2 / 3) and found.tables["bob"]["B"]["A"] == 0
    assert found.posterior["i1"]["A"] == pytest.approx(1)
    assert found.posterior["i3"]["A"] == pytest.approx(1 / 2)
    assert found.right("ann") == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_one_round_with_known_verdicts_by_hand():
    """Gold g1 = A, g2 = B, and ann is right on both, bob wrong on both; smoothing 1, item i = (A by ann, A by bob).

    i starts at P(A) = 1. Counts of ann given A: A 2 + 1, B 0 + 1 -> P(A | A) = 3/4; given B: A 0 + 1, B 1 + 1 -> 1/3.
    bob given A: A 1 + 1, B 1 + 1 -> 1/2; given B: A 1 + 1, B 0 + 1 -> 2/3. Prior: A 2 + 1, B 1 + 1 -> 3/5, 2/5.
    P(A) of i: 3/5 * 3/4 * 1/2 = 9/40 against 2/5 * 1/3 * 2/3 = 4/45, so 81/360 against 32/360 -> 81/113.
    """
    given = votes_of("ann", {"g1": "A", "g2": "B", "i": "A"}) + votes_of("bob", {"g1": "B", "g2": "A", "i": "A"})
    found = truth.find_truth(given, known={"g1": "A", "g2": "B"}, smoothing=1, rounds=1)
    assert found.posterior["i"]["A"] == pytest.approx(81 / 113)
    assert found.posterior["g1"] == {"A": 1.0, "B": 0.0}


def test_the_model_gives_the_error_rates_that_it_was_published_with():
    """Dawid and Skene's anaesthetists: shares of four grades, and 5 x 4 x 4 error rates, to two digits each."""
    (row,), (line,) = published.error_rates()
    assert (row["estimates"], line["holds"]) == (4 + 5 * 4 * 4, True)
    found = truth.find_truth(published.anaesthetists(), smoothing=0)
    assert {grade: round(share, 2) for grade, share in found.prior.items()} == {
        "A": 0.40, "B": 0.42, "tie": 0.11, "both_bad": 0.07,
    }  # fmt: skip
    # The first one said each patient's grade three times, and each of the three counts.
    assert [round(found.tables["o1"]["A"][said], 2) for said in ("A", "B")] == [0.89, 0.11]


def test_the_model_knows_who_is_worth_what():
    """Of a team with a flipped and a random rater it finds more verdicts than the majority does."""
    verdicts = {f"i{n}": ("A", "B", "tie")[n % 3] for n in range(240)}
    kinds = {"r0": "flipped", "r1": "random", "r2": "random"} | {f"r{n}": "honest" for n in range(3, 6)}
    given = team_votes(verdicts, kinds, seed=3, overlap=5)
    found = truth.find_truth(given)
    by_model = sum(found.best(item)[0] == verdict for item, verdict in verdicts.items())
    said = {item: [vote.choice for vote in given if vote.item_id == item] for item in verdicts}
    by_votes = sum(max(sorted(set(c)), key=c.count) == verdicts[item] for item, c in said.items())
    assert by_model > by_votes + 15
    assert found.rounds < truth.ROUNDS
    assert found.right("r3") > 0.7 > 0.45 > found.right("r1") and found.right("r0") < 0.45


def test_the_queue_asks_first_what_tells_most():
    """Both agree on s; on d two equally good raters differ (one bit); on t three do, two against one."""
    gold = {f"g{n}": "AB"[n % 2] for n in range(20)}
    given = [vote for rater in ("ann", "bob", "cid") for vote in votes_of(rater, gold)]
    given += votes_of("ann", {"s": "A", "d": "A", "t": "A"}) + votes_of("bob", {"s": "A", "d": "B", "t": "A"})
    given += votes_of("cid", {"t": "B"})
    found = truth.adjudication_queue(given, truth.find_truth(given, known=gold))
    assert [(one.item_id, one.why) for one in found] == [("d", "raters differ"), ("t", "raters differ")]
    assert found[0].bits == pytest.approx(1, abs=0.01)
    assert (found[1].verdict, found[1].choices) == ("A", {"ann": "A", "bob": "A", "cid": "B"})
    alone = [*given, *votes_of("cid", {"one": "A"})]
    fitted = truth.find_truth(alone, known=gold)
    queue = truth.adjudication_queue(alone, fitted, sure=0.9999)
    assert ("one", "posterior unsure") in [(one.item_id, one.why) for one in queue]


def test_what_an_adjudicator_settled_is_known_and_not_asked_again():
    """Ann and bob differ on d and e; the lead says B on d, so d leaves the queue and bob is worth more than ann."""
    given = votes_of("ann", {"d": "A", "e": "A"}) + votes_of("bob", {"d": "B", "e": "B"})
    lead = votes_of("adjudicator:lead", {"d": "B", "e": "skip"})
    before, after = truth.find_truth(given), truth.find_truth([*given, *lead])
    assert [one.item_id for one in truth.adjudication_queue(given, before)] == ["d", "e"]
    (left,) = truth.adjudication_queue([*given, *lead], after)
    assert (left.item_id, left.choices) == ("e", {"ann": "A", "bob": "B"})
    assert after.posterior["d"] == {"A": 0.0, "B": 1.0} and set(after.tables) == {"ann", "bob"}
    assert after.right("bob") > after.right("ann") and before.right("bob") == pytest.approx(before.right("ann"))


def test_adjudicators_settle_by_more_than_half_of_them():
    said = {"adjudicator:x": {"i": "A", "j": "A"}, "adjudicator:y": {"i": "A", "j": "B"}, "adjudicator:z": {"i": "tie"}}
    given = [vote for name, choices in said.items() for vote in votes_of(name, choices)]
    assert truth.settled(given) == {"i": "A"}


def test_an_adjudicator_is_no_rater_to_flags_and_charts():
    """Without it, ann and bob alone agree: each has one other, and nobody is judged by fewer than two who agree."""
    choices = {f"i{n}": "AB"[n % 2] for n in range(40)}
    given = [vote for name in ("ann", "bob", "adjudicator:lead") for vote in votes_of(name, choices)]
    assert {test.rater for test in rater_flags.rater_tests(given)} == {"ann", "bob"}
    assert raters.agreement_windows(given, size=20) == {"ann": [], "bob": []}


def test_the_model_needs_votes_and_verdicts_it_knows():
    with pytest.raises(ValueError, match="got 0 votes"):
        truth.find_truth([rating(choice="skip")])
    with pytest.raises(ValueError, match=r"\['C'\]"):
        truth.find_truth([rating()], known={"c0": "C"})


# --- label noise


def test_agreement_to_noise_to_pairs_by_hand():
    """0.625 = 3/4^2 + 1/4^2, so one rater is right on 3/4, and 0.6 shows as 0.5 + 0.1 * (1 - 2/4) = 0.55.

    That takes 783 pairs instead of 194. Three raters: 10/64 wrong, 0.5 + 0.1 * (1 - 20/64) = 0.56875.
    """
    one = label_noise.label_noise(0.625)
    assert (one.right, one.wrong, one.seen, one.pairs) == (
        pytest.approx(3 / 4), pytest.approx(1 / 4), pytest.approx(0.55), 783,
    )  # fmt: skip
    three = label_noise.label_noise(0.625, raters=3)
    assert three.wrong == pytest.approx(10 / 64) and three.seen == pytest.approx(0.56875)
    assert three.pairs == pairs_needed(0.56875)
    assert label_noise.label_noise(1.0).pairs == 194


@pytest.mark.parametrize(("win_rate", "pairs"), [(0.55, 783), (0.6, 194), (0.65, 85), (0.7, 47)])
def test_without_noise_the_numbers_are_the_known_ones(win_rate, pairs):
    assert label_noise.label_noise(1.0, win_rate=win_rate).pairs == pairs


def test_raters_who_agree_as_coins_do_show_nothing():
    nothing = label_noise.label_noise(0.5)
    assert (nothing.right, nothing.wrong, nothing.pairs) == (0.5, 0.5, None)
    assert label_noise.right_from_agreement(0.4) == 0.5


@pytest.mark.parametrize(("wrong", "worth"), [(0.0, 1.0), (0.1, 0.64), (0.25, 0.25), (0.5, 0.0), (1.0, 1.0)])
def test_what_a_label_is_worth(wrong, worth):
    """(1 - 2e)^2; labels that are always wrong tell everything, the other way round."""
    assert label_noise.label_worth(wrong) == pytest.approx(worth)


def test_labels_swapped_on_purpose_are_a_stated_share_and_nested():
    fields = dict(prompt="p", kind="harmful", cluster="k", basis="human raters", synthetic=False, split="train")
    pairs = [
        PreferencePair(
            id=f"i{n}", chosen=f"good {n}", rejected=f"bad {n}", chosen_source="x", rejected_source="y", **fields
        )
        for n in range(40)
    ]
    quarter, half = (label_noise.swap_labels(pairs, share, seed=1) for share in (0.25, 0.5))
    turned = [[n for n, pair in enumerate(some) if pair != pairs[n]] for some in (quarter, half)]
    assert [len(places) for places in turned] == [10, 20] and set(turned[0]) < set(turned[1])
    first = turned[0][0]
    assert (quarter[first].chosen, quarter[first].rejected) == (f"bad {first}", f"good {first}")
    assert (quarter[first].chosen_source, quarter[first].basis) == ("y", "human raters, swapped on purpose")
    assert label_noise.swap_labels(pairs, 0.25, seed=1) == quarter != label_noise.swap_labels(pairs, 0.25, seed=2)
    assert label_noise.swap_labels(pairs, 0.0, seed=1) == pairs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_noise.right_from_agreement(63), "give a share, not a percentage"),
        (lambda: label_noise.label_worth(1.5), "a share of wrong labels from 0 to 1, got 1.5"),
        (lambda: label_noise.swap_labels([], -0.1, seed=1), "a share of pairs from 0 to 1, got -0.1"),
        (lambda: label_noise.wrong_majority(0.7, 2), "an odd number of raters"),
        (lambda: label_noise.label_noise(0.7, win_rate=0.5), "other than a half"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
