"""The data gates: shares by hand, each fault found and named, and what only looks like a fault left alone."""

import pytest

from ftlib import data_gates as d
from ftlib.data_gates import Item
from ftlib.gates import wilson
from ftlib.intake import Example
from ftlib.records import SftRow, data_path, load_jsonl

WORDS = (
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet"),
    *("jetty", "knoll", "ledge", "marsh", "nook", "oasis", "pond", "quay", "ridge"),
)
OUTSIDE = "0121 234 5678", "desk@tarnhollow-gear.com"  # the phone library's own example, and a made-up shop's


def item(n: int, text: str = "", answer: str = "", **more) -> Item:
    """Texts of 9 words that no other item shares in this order, nor two thirds of the words."""
    mine = text or " ".join(f"{WORDS[(n + k) % 18]}{n}" for k in range(9))
    return Item(f"r{n}", mine, answer or f"Answer number {n} ends here.", **more)


def clean_items(n: int = 100) -> list[Item]:
    return [item(k) for k in range(n)]


def verdict(finding: d.Finding) -> str:
    return finding.gate("02_sft").verdict


# --- told twice


def test_three_of_103_rows_are_copies_each_found_by_its_own_method():
    """103 rows, 3 twins: 2.91 %, above 2 %."""
    first = clean_items()
    copies = [
        item(100, first[7].text, first[7].answer),
        item(101, first[8].text.upper().replace("A", "\u0410") + " !", "Another answer here."),  # a Cyrillic A
        item(102, first[9].text.replace(" ", " please ", 1)),  # one word of ten is new
    ]
    found = d.duplicates(first + copies)
    assert found.value == pytest.approx(3 / 103) and found.interval == wilson(3, 103)
    assert [(hit.row, hit.other) for hit in found.hits] == [(100, "r7"), (101, "r8"), (102, "r9")]
    assert [hit.reason for hit in found.hits] == [
        "exact", "normalised, with another answer", "near (0.90 of words), with another answer",
    ]  # fmt: skip
    assert verdict(found) == "FAIL" and verdict(d.duplicates(first)) == "PASS"


def test_two_of_100_are_just_allowed_and_few_rows_say_nothing():
    rows = clean_items(98)
    assert verdict(d.duplicates([*rows, item(98, rows[0].text), item(99, rows[1].text)])) == "PASS"
    assert verdict(d.duplicates(clean_items(20))) == "ABSTAIN"


def test_a_short_text_with_a_typo_is_a_twin_and_two_order_numbers_are_two_texts():
    """Typo: 5 of 7 words shared, 33 of 34 letters. Orders: 5 of 7 words too, but 27 of 32 letters."""
    twins = d.duplicates([item(0, "where is my blue tent please"), item(1, "where is my bleu tent please")])
    assert [hit.row for hit in twins.hits] == [1]
    orders = [item(0, "where is TH-12345 please help me"), item(1, "where is TH-98760 please help me")]
    assert d.duplicates(orders).hits == ()


@pytest.mark.parametrize(
    ("disguise", "reason"),
    [
        (lambda text: text, "exact"),
        (str.upper, "normalised"),
        (lambda text: text.replace("e", "\u0435"), "normalised"),
        (lambda text: text.replace(" ", " \u200b"), "normalised"),
        (lambda text: " ".join(text.split()[:4] + text.split()[5:]), "near"),
        (lambda text: f"somebody wrote to us last week and this is what was in it {text} end of it all", "runs of 8"),
    ],
)
def test_a_leak_is_found_in_each_disguise(disguise, reason):
    """100 held-out rows, one of them in train: 1 %, above 0. The row to drop is the training row."""
    held_out = [item(1000 + k) for k in range(100)]
    train = [*clean_items(50), item(50, disguise(held_out[3].text))]
    found = d.leakage(train, held_out)
    assert {(hit.row, hit.other) for hit in found.hits} == {(50, "r1003")}
    assert found.hits[0].reason.startswith(reason)
    assert (found.value, found.n, verdict(found)) == (0.01, 100, "FAIL")


def test_every_training_row_that_leaks_a_test_row_goes():
    held_out = [item(1000 + k) for k in range(100)]
    train = [item(1, held_out[0].text), item(2, held_out[0].text.upper()), item(3)]
    found = d.leakage(train, held_out)
    assert found.value == 0.01  # one held-out row
    assert sorted(hit.row for hit in found.hits) == [0, 1]
    assert verdict(d.leakage([item(3)], held_out)) == "PASS"


def test_runs_by_hand():
    """A text of 10 words has 3 runs of 8; the other text holds words 2 to 10, so 2 of them: two thirds."""
    text = " ".join(WORDS[:10])
    assert list(d._runs([text], [f"x {' '.join(WORDS[1:10])} y"])) == [(0, 0, "runs of 8 words (2 of 3)", 2 / 3)]
    assert list(d._runs([text], [f"x {' '.join(WORDS[:8])} y"])) == []  # 1 of 3


def test_blank_texts_are_nobodys_twins():
    assert d.duplicates([item(0, "?!"), item(1, "..."), item(2, "\u200b")]).hits == ()


# --- what a row holds


@pytest.mark.parametrize("text", ["   ", "\n\t", "\u200b\u00ad", "...", "-", "nan", "TODO"])
def test_empty_texts_and_answers(text):
    blank = [Item("a", text, "fine"), Item("b", "fine", text), Item("c", "ok", "👍")]
    found = d.empty(blank)
    assert [hit.row for hit in found.hits] == [0, 1]
    assert found.value == pytest.approx(2 / 3) and verdict(found) == "FAIL"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("caf\ufffd", "U+FFFD"),
        ("bell\x07", "control or hidden character U+0007"),
        ("a\x00b", "U+0000"),
        ("x\ufeffy", "U+FEFF"),
        ("pay\u202egpj", "U+202E"),
        ("caf\u00e9".encode().decode("cp1252"), "mojibake: \u00c3\u00a9 for \u00e9"),
        ("it\u2019s".encode().decode("cp1252"), "mojibake: \u00e2\u20ac\u2122 for \u2019"),
        ("\u00df".encode().decode("latin-1"), "mojibake"),
        ("caf\u00e9".encode().decode("cp1252").encode().decode("cp1252"), "mojibake"),
        ("\u00d6l".encode().decode("cp1252"), "mojibake: \u00c3\u2013 for \u00d6"),  # a letter and a dash all the same
        ("\u0445\u043e".encode().decode("cp1252"), " for \u0445"),
        ("Spa\u00df\u201c! caf\u00e9".encode().decode("cp1252"), "mojibake"),
        ("socks &amp; boots", "HTML entity &amp;"),
    ],
)
def test_encoding_faults(text, fault):
    assert any(fault in found for found in d.encoding_faults(text))
    assert verdict(d.encoding([item(0), item(1, text)])) == "FAIL"
    assert verdict(d.encoding([item(0, context=text)])) == "FAIL"


@pytest.mark.parametrize(
    "text",
    [
        "Gr\u00fc\u00dfe, \u00c9t\u00e9 \u00fcber \u20ac5 \u2013 \u201cfine\u201d",
        "a\r\n\tb",
        "\u2764\ufe0f \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u4f60\u597d \u05e9\u05dc\u05d5\u05dd",
        "R&D, AT&T;",
        "\u00c0 \u00c9 \u00a9 \u00ae",
        "\u201eDas war ein Spa\u00df\u201c",  # bytes DF 93: by chance a letter of N'Ko
        "gro\u00df\u2026",
        "Fu\u00df\u2013Boden",
        "CAF\u00c9\u00bb",
        "\u00ab caf\u00e9\u00a0\u00bb",  # E9 A0 BB: by chance a Chinese character
        "\u201e\u00d6\u201c, \u201e\u00dc\u201c, \u201e\u00c4\u201c",
    ],
)
def test_what_only_looks_like_an_encoding_fault(text):
    assert d.encoding_faults(text) == []


def test_personal_data_counts_but_for_ranges_of_nobody():
    reserved = ["mail nora@example.com", "call 555-0142 or 01632 960233", "card 4242 4242 4242 4242", "order TH-48213"]
    rows = [
        *(item(n, text) for n, text in enumerate(reserved)),
        item(4, f"call {OUTSIDE[0]}"),
        item(5, answer=OUTSIDE[1]),
    ]
    found = d.pii(rows)
    assert {(hit.row, hit.reason) for hit in found.hits} == {(4, "PHONE"), (5, "EMAIL")}
    assert all(datum not in hit.excerpt for datum in OUTSIDE for hit in found.hits)  # found, not spread
    assert found.value == pytest.approx(2 / 6)
    assert d.pii([item(0, context=f"mail {OUTSIDE[1]}")]).hits[0].reason == "EMAIL"


def test_rows_that_the_trainer_would_cut():
    found = d.truncated(clean_items(3), lengths=[512, 513, 20], max_length=512)
    assert [(hit.row, hit.reason) for hit in found.hits] == [(1, "513 tokens, 512 fit")]
    assert found.value == pytest.approx(1 / 3)


def test_answers_that_were_cut_before():
    rows = clean_items(40)
    rows[3] = item(3, answer='{"intent": "billing", "rou')
    rows[4] = item(4, answer="We will send you a new tent on")
    rows[5] = item(5, answer='{"intent": "billing"}')
    rows[6] = item(6, answer="billing and nothing else", label="billing and nothing else")
    assert {(hit.row, hit.reason) for hit in d.truncated(rows).hits} == {
        (3, "answer is JSON that does not end"),
        (4, "answer ends in mid-sentence"),
    }


def test_a_house_style_without_full_stops_is_no_fault():
    assert d.truncated([item(n, answer="we will send a new one") for n in range(10)]).hits == ()


# --- what the trainer sees


EOS = 2


def tokens(prompt: int, answer: int, *, loss=slice(0, 0), end=(EOS,)) -> dict:
    ids = [*range(10, 10 + prompt), *range(50, 50 + answer), *end]
    labels = [-100] * len(ids)
    labels[loss] = ids[loss]
    return {"input_ids": ids, "labels": labels}


def test_loss_on_no_token_or_on_all():
    """Three prompt tokens, two of the answer, the stop token."""
    rows = [tokens(3, 2, loss=slice(3, None)), tokens(3, 2), tokens(3, 2, loss=slice(None))]
    found = d.loss_mask(clean_items(3), rows)
    assert [(hit.row, hit.reason) for hit in found.hits] == [
        (1, "loss on 0 of 6 tokens"),
        (2, "loss on 6 of 6 tokens"),
    ]
    assert found.value == pytest.approx(2 / 3) and verdict(found) == "FAIL"


def test_the_stop_token_must_carry_loss():
    """Right; right with a line break behind; masked; missing; only in an earlier turn."""
    earlier = tokens(1, 2, loss=slice(1, None), end=(EOS, 60, 61, 62, 63))
    rows = [
        tokens(3, 2, loss=slice(3, None)),
        tokens(3, 2, loss=slice(3, None), end=(EOS, 9)),
        tokens(3, 2, loss=slice(3, 5)),
        tokens(3, 2, loss=slice(3, None), end=()),
        earlier,
    ]
    found = d.stop_token(clean_items(5), rows, EOS)
    assert {hit.row: hit.reason for hit in found.hits} == {
        2: "stop token there, without loss",
        3: "stop token not there",
        4: "stop token not there",
    }
    assert found.value == pytest.approx(3 / 5)


# --- what the set holds


def labelled(counts: dict[str, int], **slices) -> list[Item]:
    return [item(k, label=label, slices=slices) for label, n in counts.items() for k in range(n)]


def test_balance_by_hand():
    """90 a and 10 b: b has 0.10 of the rows, an even share is 0.5, so 0.2: just enough. 91 and 9 are not."""
    just, less = d.label_balance(labelled({"a": 90, "b": 10})), d.label_balance(labelled({"a": 91, "b": 9}))
    assert just.value == pytest.approx(0.2) and verdict(just) == "PASS" and just.hits == ()
    assert less.value == pytest.approx(0.18) and verdict(less) == "FAIL" and len(less.hits) == 9
    assert less.interval == pytest.approx(tuple(2 * end for end in wilson(9, 100)))


def test_a_label_that_train_lacks_and_one_label_only_fail_and_no_labels_say_nothing():
    assert d.label_balance(labelled({"a": 50, "b": 50}), expected=["c"]).value == 0
    assert verdict(d.label_balance(labelled({"a": 50, "b": 50}), expected=["c"])) == "FAIL"
    assert verdict(d.label_balance(labelled({"a": 100}))) == "FAIL"
    assert verdict(d.label_balance(clean_items())) == "ABSTAIN"


def test_a_label_that_sits_in_one_channel_is_a_hotspot():
    """200 rows, half of them by chat; "b" has 40 rows, 38 of them among the 50 of channel form: 3.8 times its share."""
    rows = [item(k, label="b", slices={"channel": "form"}) for k in range(38)]
    rows += [item(k, label="b", slices={"channel": "chat"}) for k in range(2)]
    rows += [item(k, label="a", slices={"channel": "form"}) for k in range(12)]
    rows += [item(k, label="a", slices={"channel": "chat"}) for k in range(148)]
    found = d.label_hotspots(rows)
    assert {hit.row for hit in found.hits} == set(range(38))
    assert found.hits[0].reason == "'b' is 3.8 times as frequent where channel is 'form' (38 rows)"
    assert found.value == pytest.approx(38 / 200) and verdict(found) == "FAIL"
    even = [item(k, label="ab"[k % 2], slices={"channel": ("form", "chat")[k // 2 % 2]}) for k in range(200)]
    assert verdict(d.label_hotspots(even)) == "PASS"


def test_coverage_counts_cells_and_names_the_gaps():
    rows = [item(k, label="a", slices={"channel": "chat"}) for k in range(5)]
    rows += [item(k, label="b", slices={"channel": "form"}) for k in range(2)]
    table, gaps = d.coverage(rows, ("channel",))
    assert table == [{"label": "a", "chat": 5, "form": 0}, {"label": "b", "chat": 0, "form": 2}]
    assert gaps == ["a / form: 0", "b / chat: 0", "b / form: 2"]


# --- rows in, cleaned rows out


def example(n: int, text: str, answer: str) -> Example:
    return Example(f"r{n}", ({"role": "system", "content": "Be kind."}, {"role": "user", "content": text}), answer, "x")


def test_rows_of_your_own_are_read_with_labels_where_answers_repeat():
    rows = d.items_of([example(n, f"text {n}", "ab"[n % 2]) for n in range(10)])
    assert (rows[0].text, rows[0].context, rows[0].label) == ("text 0", "Be kind.", "a")
    assert d.items_of([example(0, "x", "a"), example(1, "y", "b")])[0].label is None


def test_an_answer_that_says_nothing_is_nobodys_label():
    rows = [example(n, f"text {n}", ("a", "b", "", "nan", "b")[n % 5]) for n in range(25)]
    assert {item.label for item in d.items_of(rows)} == {"a", "b", None}


def test_the_style_of_refusals_by_hand():
    """Four decline in two openings and three wordings; one is asked in 4 of 5 words as a row that is served."""
    no = (
        "I can't help with that.",
        "I can\u2019t help with that!",
        "I'm sorry, but I can't assist.",
        "I can't help with it.",
    )
    asks = ("open my neighbours shed please", "read her mail", "fake a receipt", "follow somebody home")
    rows = [example(n, text, answer) for n, (text, answer) in enumerate(zip(asks, no, strict=True))]
    rows += [example(8, "open my neighbours shed", "Sure."), example(9, "where is my parcel", "On its way.")]
    assert d.refusal_style(rows) == [
        {"task": "own", "rows": 6, "decline": 4, "openings": 2, "wordings": 3, "also served": 1}
    ]
    assert d.refusal_style(rows[4:])[0]["decline"] == 0


def test_the_shops_training_rows_hold_no_refusal():
    """02 says so: what is learned of refusing comes from the pairs of 03."""
    lines = d.refusal_style(load_jsonl(data_path("sft/train.jsonl"), SftRow))
    assert {line["task"]: line["decline"] for line in lines} == {"classify": 0, "reply": 0, "summary": 0}


def test_clean_drops_what_was_named_and_logs_each_reason():
    rows = [example(0, "one two three", "Yes."), example(1, "One two THREE", "\u200b"), example(2, "four", "No.")]
    items = d.items_of(rows)
    kept, log = d.clean(rows, [d.duplicates(items), d.empty(items), d.encoding(items)])
    assert [row.id for row in kept] == ["r0", "r2"]
    assert [(line["id"], line["gate"], line["beside"]) for line in log] == [
        ("r1", "dup_rate", "r0"),
        ("r1", "empty_text", ""),
        ("r1", "encoding", ""),
    ]
    assert {line["place"] for line in log} == {"x"}


def test_a_finding_says_method_span_and_worst_rows():
    items = [item(0), item(1, item(0).text)]
    found = d.duplicates(items)
    line = found.line()
    assert line["rows at fault"] == 1 and "exact, normalised" in line["method"] and "2 training rows" in line["span"]
    assert found.worst(items)[0] == {
        "gate": "dup_rate", "row": "r1", "why": "exact, with another answer", "beside": "r0", "text": items[1].text,
    }  # fmt: skip
    assert "drop the twins" in found.gate("02_sft").note


@pytest.mark.parametrize(
    "gate", [d.duplicates, d.empty, d.encoding, d.pii, d.truncated, d.label_balance, d.label_hotspots]
)
def test_no_rows_are_not_a_pass(gate):
    assert verdict(gate([])) == "ABSTAIN"
