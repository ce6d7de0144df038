"""The spot audit: bounds by hand, what settles a row, the log, and the widget driven by `button.click()`."""

import json

import pytest
from test_widgets import HOSTILE, Screen, parsed

from ftlib import audit
from ftlib.audit import AuditLog, AuditSession, assign, draw_sample, open_questions, replay, result
from ftlib.data_gates import Item, items_of
from ftlib.gates import lower_bound, successes_needed
from ftlib.records import AuditVerdict, SftRow, data_path, load_jsonl
from ftlib.widgets import audit_tabs, audit_widget

ITEMS = [Item(f"r{n}", f"message {n}", f"answer {n}") for n in range(8)]


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit" / "audit.jsonl")


def verdict(n: int, auditor: str, said: str, **more) -> AuditVerdict:
    values = {"row_id": f"r{n}", "digest": audit.digest(ITEMS[n]), "auditor": auditor, "verdict": said}
    return AuditVerdict(**{**values, "seconds": 1.0, "simulated": False, "created_at": "2026-11-28T00:00:00Z"} | more)


# --- bounds


def test_the_bound_of_all_right_is_a_root():
    """All of n right: the bound p solves p^n = 0.05."""
    assert lower_bound(29, 29) == pytest.approx(0.05 ** (1 / 29))
    assert lower_bound(28, 28) < 0.9 < lower_bound(29, 29)
    assert lower_bound(0, 5) == 0.0


def test_the_bound_of_one_wrong_by_the_binomial():
    """One wrong of 46: at the bound p, 45 or 46 right have a chance of 0.05: p^46 + 46 p^45 (1 - p)."""
    p = lower_bound(45, 46)
    assert p**46 + 46 * p**45 * (1 - p) == pytest.approx(0.05)
    assert p > 0.9 > lower_bound(44, 45)


def test_rows_needed_for_90_percent():
    """29 of 29, 45 of 46, 59 of 61, 73 of 76; 46 of 48 show only 0.875."""
    assert [successes_needed(0.9, failures) for failures in range(4)] == [29, 46, 61, 76]
    assert lower_bound(46, 48) == pytest.approx(0.8746, abs=1e-4)


@pytest.mark.parametrize("bad", [(0, 0), (5, 4), (-1, 3)])
def test_counts_that_cannot_be(bad):
    with pytest.raises(ValueError, match="count the items again"):
        lower_bound(*bad)


# --- the sample


def test_a_sample_is_drawn_by_seed_and_does_not_depend_on_the_rest():
    drawn = draw_sample(ITEMS, 5, seed=1)
    assert drawn == draw_sample(ITEMS[::-1], 5, seed=1)
    assert drawn != draw_sample(ITEMS, 5, seed=2)
    of_half = draw_sample(ITEMS[:4], 5, seed=1)
    assert [item for item in draw_sample(ITEMS, 8, seed=1) if item in ITEMS[:4]] == of_half


def test_overlap_goes_to_both_and_the_rest_in_turn():
    given = assign(ITEMS, ("a", "b"), overlap=2)
    assert [item.id for item in given["a"]] == ["r0", "r1", "r2", "r4", "r6"]
    assert [item.id for item in given["b"]] == ["r0", "r1", "r3", "r5", "r7"]
    with pytest.raises(ValueError, match="expected two auditors or more"):
        assign(ITEMS, ("a", "a"), overlap=2)


# --- what counts


def test_each_way_a_row_can_end():
    """Right by one, right by both, differing, wrong by one, wrong by both, unsure, settled right, settled unsure."""
    said = [
        verdict(0, "a", "correct"),
        *(verdict(1, "a", "correct"), verdict(1, "b", "correct")),
        *(verdict(2, "a", "correct"), verdict(2, "b", "wrong")),
        verdict(3, "a", "wrong"),
        *(verdict(4, "a", "wrong", reason="route"), verdict(4, "b", "wrong", reason="route")),
        verdict(5, "a", "unsure"),
        *(verdict(6, "a", "wrong"), verdict(6, "c", "correct", settles=True)),
    ]
    found = result(ITEMS, said)
    assert (found.n, found.correct, found.missing) == (7, 3, 1)
    assert (found.wrong, found.open) == (("r4",), ("r2", "r3", "r5"))
    assert (found.agreed, found.shared, found.basis) == (2, 3, "people")
    assert [item.id for item in open_questions(ITEMS, said)] == ["r2", "r3", "r5"]
    assert result(ITEMS, [*said, verdict(5, "c", "unsure", settles=True)]).wrong == ("r4", "r5")


def test_a_verdict_does_not_carry_over_to_another_text():
    changed = [Item("r0", "message 0", "another answer")]
    assert result(changed, [verdict(0, "a", "correct")]).n == 0


def test_the_gate_is_judged_by_the_lower_bound():
    """40 rows: all right show 0.928; two wrong, with the bound at 0.851, fail; 20 rows are too few to say."""
    items = [Item(f"r{n}", f"m{n}", "x") for n in range(40)]
    judge = lambda n, wrong: audit.audit_finding(
        items,
        items[:n],
        [
            AuditVerdict(
                row_id=item.id, digest=audit.digest(item), auditor=who, verdict="wrong" if k < wrong else "correct",
                reason="route", seconds=1.0, simulated=False, created_at="now",
            )
            for k, item in enumerate(items[:n])
            for who in ("a", "b")
        ],
    )  # fmt: skip
    assert judge(40, 0).value == pytest.approx(0.05 ** (1 / 40))
    verdicts = [judge(n, wrong).gate("02_sft").verdict for n, wrong in ((40, 0), (40, 2), (20, 0))]
    assert verdicts == ["PASS", "FAIL", "ABSTAIN"]
    failed = judge(40, 2)
    assert [(hit.row, hit.reason) for hit in failed.hits] == [(0, "wrong: route"), (1, "wrong: route")]
    assert audit.audit_finding(items, items, []).gate("02_sft").verdict == "ABSTAIN"


def test_simulated_verdicts_are_no_evidence():
    found = audit.audit_finding(ITEMS, ITEMS, [verdict(0, "a", "correct", simulated=True)])
    assert "simulated auditors" in found.method
    assert found.gate("02_sft").evidence is False


# --- the log and the session


def test_each_verdict_is_a_line_at_once_and_a_session_goes_on(log):
    session = AuditSession(log, "ann", ITEMS, seed=1)
    first = session.current().item.id
    session.submit("correct")
    assert len(log.path.read_bytes().splitlines()) == 1
    session.submit("wrong", reason="wrong route")
    again = AuditSession(log, "ann", ITEMS, seed=1)
    assert again.progress().done == 2 and again.current() == session.current()
    assert [v.row_id for v in log.verdicts()][0] == first


def test_half_a_line_of_a_killed_kernel_does_not_count_and_is_mended(log):
    session = AuditSession(log, "ann", ITEMS, seed=1)
    session.submit("correct")
    with open(log.path, "ab") as file:
        file.write(b'{"row_id": "r')
    assert len(log.verdicts()) == 1
    AuditSession(log, "ann", ITEMS, seed=1).submit("correct")
    assert len(log.verdicts()) == 2


def test_second_thoughts_take_the_place_of_the_first(log):
    session = AuditSession(log, "ann", ITEMS, seed=1)
    shown = session.current()
    session.submit("correct")
    assert session.back().item == shown.item
    session.submit("unsure", reason="two routes would do")
    assert [(v.row_id, v.verdict) for v in log.verdicts()] == [(shown.item.id, "unsure")]
    assert len(log.path.read_bytes().splitlines()) == 2  # nothing is deleted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"verdict": "wrong"}, "'wrong' wants a reason"),
        ({"verdict": "fine"}, "verdict is 'fine'; expected one of correct, wrong, unsure"),
        ({"verdict": "correct", "row_id": "r99"}, "'r99' is not among the 8 rows of ann's session"),
    ],
)
def test_verdicts_that_are_refused(log, values, message):
    with pytest.raises(ValueError, match=message):
        AuditSession(log, "ann", ITEMS, seed=1).submit(**values)
    assert log.verdicts() == []


def test_a_session_that_is_done_or_has_no_name(log):
    session = AuditSession(log, "ann", ITEMS[:1], seed=1)
    session.submit("correct")
    assert session.current() is None
    with pytest.raises(ValueError, match="ann has judged all 1 rows"):
        session.submit("correct")
    with pytest.raises(ValueError, match="expected an auditor's name"):
        AuditSession(log, " ", ITEMS, seed=1)


def test_a_broken_log_names_file_and_line(log):
    AuditSession(log, "ann", ITEMS, seed=1).submit("correct")
    log.path.write_bytes(log.path.read_bytes() + b"{}\n")
    with pytest.raises(ValueError, match=r"audit\.jsonl line 2: not a verdict"):
        log.verdicts()


def test_auditors_see_the_rows_in_orders_of_their_own(log):
    orders = [[*AuditSession(log, name, ITEMS, seed=1)._items] for name in ("ann", "bo")]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


# --- the recorded audit


def test_the_recorded_audit_is_what_its_generator_makes(tmp_path):
    """`data/sft/audit.jsonl` by seed 17: the same verdicts, but for the clock."""
    rows = load_jsonl(data_path("sft/train.jsonl"), SftRow)
    made = AuditLog(tmp_path / "audit.jsonl")
    audit.simulate(rows, items_of(rows), made, n=60, overlap=20, seed=17)
    recorded = load_jsonl(data_path("sft/audit.jsonl"), AuditVerdict)
    clock = {"seconds", "created_at"}
    assert [v.model_dump(exclude=clock) for v in recorded] == [v.model_dump(exclude=clock) for v in made.verdicts()]
    assert all(v.simulated for v in recorded)


def test_a_replay_gives_each_verdict_once_and_keeps_that_it_was_simulated(log):
    said = [verdict(n, "ann", "correct", simulated=True) for n in range(3)]
    session = AuditSession(log, "ann", ITEMS, seed=1)
    assert (replay(session, said), replay(session, said)) == (3, 0)
    assert log.verdicts()[0].simulated and log.verdicts()[0].created_at == said[0].created_at


def test_the_rule_check_finds_what_rules_can_find():
    right = json.loads(data_path("sft/train.jsonl").read_text(encoding="utf-8").splitlines()[2])
    wrong_order = right | {"id": "x", "output": right["output"] | {"order_id": "TH-00000"}}
    wrong_route = right | {"id": "y", "output": right["output"] | {"route": "billing"}}
    rows = [SftRow(**row) for row in (right, wrong_order, wrong_route)]
    check = audit.rule_check(rows)
    assert [check(item) for item in items_of(rows)] == [
        "",
        "order number TH-00000 is not in the text",
        "route billing does not belong to change_or_cancel",
    ]


# --- the widget


def make(log, items=ITEMS, **options):
    session = AuditSession(log, "ann", items, seed=1)
    return session, Screen(audit_widget(session, **{"double_click_seconds": 0} | options))


def test_a_click_judges_the_row_on_show(log):
    session, screen = make(log)
    for n in range(8):
        shown = session.current().item
        assert shown.text in parsed(screen.page).text and shown.answer in parsed(screen.page).text
        assert shown.id not in parsed(screen.page).text  # blind
        screen.press("Correct")
        assert (log.verdicts()[-1].row_id, len(log.verdicts())) == (shown.id, n + 1)
    assert "All 8 rows are judged" in screen.page
    assert screen.button("Correct").disabled and not screen.button("Back").disabled


def test_wrong_and_unsure_want_a_reason_and_the_row_stays(log):
    session, screen = make(log)
    shown = session.current()
    screen.press("Wrong")
    assert "Not stored; the row stays." in screen.page and log.verdicts() == []
    screen.comment.value = "  the route  "
    screen.press("Wrong")
    assert (log.verdicts()[0].row_id, log.verdicts()[0].reason) == (shown.item.id, "the route")
    assert screen.comment.value == "" and "1 of 8 judged" in screen.page


def test_back_opens_the_last_row(log):
    session, screen = make(log)
    assert screen.button("Back").disabled
    first = session.current().item
    screen.press("Correct")
    screen.press("Back")
    assert first.text in screen.page and "0 of 8 judged" in screen.page


def test_a_double_click_is_one_verdict_and_a_new_widget_goes_on(log):
    _, screen = make(log, double_click_seconds=60)
    screen.press("Correct")  # at once: no click before it, so it counts
    screen.press("Correct")
    assert len(log.verdicts()) == 1
    _, screen = make(log)
    assert "1 of 8 judged" in screen.page
    screen.press("Correct")
    assert len(log.verdicts()) == 2


def test_each_auditor_has_a_tab(log):
    given = assign(ITEMS, ("ann", "bo"), overlap=2)
    tabs = audit_tabs([AuditSession(log, name, rows, seed=1) for name, rows in given.items()], double_click_seconds=0)
    assert tabs.titles == ("ann", "bo")
    Screen(tabs.children[1]).press("Correct")
    assert [v.auditor for v in log.verdicts()] == ["bo"]
    assert "0 of 5 judged" in Screen(tabs.children[0]).page


def test_a_disk_that_is_full_is_said(log, monkeypatch):
    _, screen = make(log)

    def fail(_):
        raise OSError("disk <full>")

    monkeypatch.setattr(log, "add", fail)
    screen.press("Correct")
    assert "disk &lt;full&gt;" in screen.page and "0 of 8 judged" in screen.page


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_stay_inert(log, text):
    harmless = parsed(make(log, [Item("r", "a", "b", context="c")])[1].page)
    _, screen = make(log, [Item("r2", text, text, context=text)])
    page = parsed(screen.page)
    assert set(page.tags) - {"i"} <= set(harmless.tags) | {"span"}
    assert page.attributes == harmless.attributes
    assert page.tags.count("div") == harmless.tags.count("div")
    screen.press("Correct")
    assert [v.verdict for v in log.verdicts()] == ["correct"]
