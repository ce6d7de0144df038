"""Answers that were sampled before a kill are not sampled again, and are those of a run that was not killed."""

import pytest
from tiny import TinyTokenizer, tiny_model

from ftlib.generate import Sample, sample_chats
from ftlib.kept_answers import answers_of, kept_answers
from ftlib.sources import Source


def chats_of(n):
    return [[{"role": "user", "content": f"message {k}"}] for k in range(n)]


class Writer:
    """Answers with the place; killed when it comes to one."""

    def __init__(self, killed_at=None):
        self.killed_at, self.asked = killed_at, []

    def __call__(self, chats, places):
        self.asked += places
        if self.killed_at in places:
            raise KeyboardInterrupt
        return [
            Sample(f"{chat[0]['content']} ä\u2028", [n], [-0.5], True) for chat, n in zip(chats, places, strict=True)
        ]


def test_a_killed_sampling_goes_on_with_the_lots_it_has(tmp_path):
    """Lots of 3 of 10: killed in the third, 6 are kept; the last 4 are asked, in lots of 3 and 1."""
    path = tmp_path / "checkpoints" / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        kept_answers(path, chats_of(10), Writer(killed_at=7), lot=3)
    rest, whole = Writer(), Writer()
    found = kept_answers(path, chats_of(10), rest, lot=3)
    assert rest.asked == [6, 7, 8, 9]
    assert found == kept_answers(tmp_path / "another.jsonl", chats_of(10), whole, lot=100)
    none = Writer()
    assert kept_answers(path, chats_of(10), none) == found and none.asked == []


def test_a_piece_of_a_line_is_asked_again_and_anything_else_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    kept_answers(path, chats_of(4), Writer(), lot=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Writer()
    kept_answers(path, chats_of(4), again)
    assert again.asked == [3] and path.read_bytes() == whole
    with pytest.raises(ValueError, match="expected at most 3 answers, got 4; remove the file"):
        kept_answers(path, chats_of(3), Writer())
    path.write_bytes(b'{"text": "x"}\n')
    with pytest.raises(ValueError, match="line 1: expected an answer"):
        kept_answers(path, chats_of(4), Writer())
    with pytest.raises(ValueError, match="an answer to each of 1 chats, got 0"):
        kept_answers(tmp_path / "new.jsonl", chats_of(1), lambda chats, places: [])
    with pytest.raises(ValueError, match="lot: expected 1 or more"):
        kept_answers(tmp_path / "new.jsonl", chats_of(1), Writer(), lot=0)


def test_lots_draw_what_the_whole_list_draws(tmp_path):
    model, tokenizer = tiny_model(), TinyTokenizer()
    write = lambda chats, places: sample_chats(
        model, tokenizer, chats, row_seeds=places, temperature=1.0, seed=3, max_new_tokens=6
    )
    chats = chats_of(7)
    lots = kept_answers(tmp_path / "lots.jsonl", chats, write, lot=2)
    whole = sample_chats(model, tokenizer, chats, temperature=1.0, seed=3, max_new_tokens=6)
    assert [one.token_ids for one in lots] == [one.token_ids for one in whole]


class Held:
    """`OneModel` without a model: counts how often it is asked for one."""

    def __init__(self, folder, dtype="fp32"):
        self.folder, self.dtype, self.loaded = str(folder), dtype, 0

    def parts(self, source):
        return (self.folder, *map(str, source.adapters))

    def of(self, source):
        self.loaded += 1
        return tiny_model(), TinyTokenizer()


def test_answers_are_read_again_for_the_same_weights_and_options_only(tmp_path):
    weights = tmp_path / "adapter"
    weights.mkdir()
    (weights / "adapter_model.safetensors").write_text("one")
    source = Source("sft at 0.9", "plain", 0.9, None, (weights,), 0)

    def answer(dtype="fp32", **options):
        held = Held(tmp_path / "no-such-model", dtype)
        given = {"max_new_tokens": 4, "temperature": 0.9, "seed": 1} | options
        found = answers_of(source, held, chats_of(3), folder=tmp_path / "kept", batch_size=2, progress="", **given)
        return [one.token_ids for one in found], held.loaded

    first, loaded = answer()
    assert loaded == 1 and answer() == (first, 0)
    assert answer(seed=2)[1] == answer(dtype="bf16")[1] == 1
    (weights / "adapter_model.safetensors").write_text("trained again")
    assert answer() == (first, 1)  # the stand-in's weights are the same, so the answers are
