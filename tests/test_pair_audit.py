"""The audit of pairs from elsewhere: by hand, and on a public set whose faults are known."""

import pytest

from benchmarks.cases.published import HH, hh_rlhf
from ftlib.pair_audit import PairText, audit_lengths, audit_pairs, kind_shares, split_transcript
from ftlib.records import PreferencePair


def test_each_fault_by_hand():
    pairs = [
        PairText("p", "long answer", "short", "p"),  # contradicted by row 1
        PairText("p", "short", "long answer", "p"),
        PairText("p", "yes", "no", "q"),  # two prompts
        PairText("p", "  ", "no", "p"),  # an empty side
        PairText("r", "same", "same", "r"),
    ]
    found = audit_pairs(pairs)
    assert (found.prompts_differ, found.empty, found.equal, found.contradictions) == ([2], [3], [4], [0, 1])
    assert found.chosen_longer == 2 / 5  # rows 0 and 2
    assert audit_pairs([]).chosen_longer is None


def test_a_transcript_is_split_at_the_last_turn():
    start = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: bye"
    assert split_transcript(f"{start}\n\nAssistant: Bye!", f"{start}\n\nAssistant:") == PairText(
        start, "Bye!", "", start
    )
    with pytest.raises(ValueError, match="rejected: expected a transcript"):
        split_transcript(f"{start}\n\nAssistant: Bye!", "Bye!")


def test_shares_of_kinds():
    fields = dict(prompt="p", chosen="a", rejected="b", cluster="c", chosen_source="s", rejected_source="s")
    fields |= dict(basis="human raters", synthetic=False, split="train")
    kinds = ["harmful", "production", "harmful", "borderline"]
    pairs = [PreferencePair(id=f"i{n}", kind=kind, **fields) for n, kind in enumerate(kinds)]
    assert kind_shares(pairs) == {"borderline": 0.25, "harmful": 0.5, "production": 0.25}


def test_lengths_by_hand():
    """Harmful: 9 of 9 chosen answers are shorter: Wilson's interval of 0 of 9 ends at 0.30. Borderline: one longer, one
    shorter, one as long. All: 1 of 11 of unequal length are longer.
    """
    fields = dict(prompt="p", cluster="c", chosen_source="s", rejected_source="s", basis="human raters")
    fields |= dict(synthetic=False, split="train")
    texts = [("harmful", "no", "yes of course")] * 9
    texts += [("borderline", "aa bb", "cc"), ("borderline", "a", "bb cc dd"), ("borderline", "ab", "cd")]
    pairs = [
        PreferencePair(id=f"i{n}", kind=kind, chosen=chosen, rejected=rejected, **fields)
        for n, (kind, chosen, rejected) in enumerate(texts)
    ]
    borderline, harmful, all_kinds = audit_lengths(pairs)
    assert (harmful.n, harmful.chosen_words, harmful.rejected_words, harmful.longer) == (9, 1.0, 3.0, 0.0)
    assert harmful.interval == pytest.approx((0, 0.299), abs=0.001) and harmful.verdict == "shorter wins"
    assert (borderline.longer, borderline.verdict) == (0.5, "no sign")
    assert borderline.chosen_words == pytest.approx(4 / 3)
    assert (all_kinds.kind, all_kinds.longer) == ("all", 1 / 11)
    assert audit_lengths(pairs[-1:])[0].longer is None
    assert audit_lengths([]) == []
    swapped = [pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}) for pair in pairs[:9]]
    assert audit_lengths(swapped)[0].verdict == "longer wins"


@pytest.mark.skipif(not HH.is_file(), reason="hh-rlhf is not beside the project")
def test_the_known_faults_of_hh_rlhf_harmless():
    (row,), checks = hh_rlhf()
    assert row["pairs"] == 2312
    assert [(line["value"], line["holds"]) for line in checks] == [(5, True), (4, True), (0.44, True)]


def test_without_the_set_its_row_says_why(tmp_path):
    (row,), checks = hh_rlhf(tmp_path / "test.jsonl.gz")
    assert row["left out"] == "no file test.jsonl.gz in shared/data beside the project" and checks == []
