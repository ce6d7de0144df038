"""Sources of answers: their names read, what each is asked, which of them meet, one model at a time."""

import gc
import itertools
import weakref
from collections import Counter

import pytest

from ftlib import sources, tasks
from ftlib.records import SYSTEM, Candidate, SftRow, assistant_chat, data_path, load_jsonl
from ftlib.sources import OneModel, pair_up, read_sources, source_table, worked_examples


@pytest.fixture
def folders(tmp_path):
    """An SFT adapter, a second adapter, a model, and a folder with neither."""
    for name, file in {"sft": "adapter_config.json", "dpo": "adapter_config.json", "model": "config.json"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_the_default_is_the_sft_model_at_two_temperatures(folders):
    habit, other = read_sources("sft at 0.0, sft at 0.9", sft=folders / "sft")
    assert (habit.name, habit.asks, habit.temperature, habit.model) == ("sft at 0.0", "plain", 0.0, None)
    assert habit.adapters == other.adapters == (folders / "sft",)
    assert (other.name, other.temperature) == ("sft at 0.9", 0.9)
    assert habit.draw == other.draw == 0  # both with the seed as it is: temperature 0 draws nothing


def test_no_two_sources_share_their_draws(folders):
    text = "base at 0.7,few-shot at 0.7, sft at 0, sft at 0.7"
    found = read_sources(text, sft=folders / "sft")
    assert [source.name for source in found] == ["base at 0.7", "few-shot at 0.7", "sft at 0.0", "sft at 0.7"]
    assert [source.asks for source in found] == ["zero-shot", "few-shot", "plain", "plain"]
    assert [source.adapters for source in found[:2]] == [(), ()]
    assert [source.draw for source in found] == [0, 1, 2, 2]  # sft at 0.0 draws nothing, so 2 is used once


def test_folders_are_models_adapters_or_adapters_on_top_of_others(folders):
    model, dpo = folders / "model", folders / "dpo"
    text = f"{model} at 0.5, {dpo} at 0.5, sft + {dpo} at 0.5, {model} + {dpo} at 0.5"
    found = read_sources(text, sft=folders / "sft")
    assert [source.model for source in found] == [model, None, None, model]
    assert [source.adapters for source in found] == [(), (dpo,), (folders / "sft", dpo), (dpo,)]
    assert {source.asks for source in found} == {"plain"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sft at 0.0", "expected two or more sources.* got 1; write each as MODEL at TEMPERATURE"),
        ("", "got 0"),
        ("sft at 0.0, sft", "expected a model and a temperature of 0 or more, got 'sft'; write each as"),
        ("sft at 0.0, sft at hot", "got 'sft at hot'"),
        ("sft at 0.0, sft at -1", "got 'sft at -1'"),
        ("sft at 0.0, sft at nan", "got 'sft at nan'"),
        ("sft at 0.0, sft at 0", "'sft at 0.0' is there twice.*take another temperature"),
        ("sft at 0.0, stf at 0.9", "expected base, few-shot, sft, or a folder .* got 'stf' in 'stf at 0.9'; check"),
        ("sft at 0.0, EMPTY at 0.9", "got '.*empty' in"),
        ("sft at 0.0, sft + EMPTY at 0.9", "'.*empty' holds no adapter; give the folder with adapter_config.json"),
        ("sft at 0.0, base + sft at 0.9", "'sft' holds no adapter"),
        ("sft at 0.0, base + DPO at 0.9", "'base' is asked as a model without any"),
    ],
)
def test_a_wrong_entry_says_what_was_expected(folders, text, said):
    text = text.replace("EMPTY", str(folders / "empty")).replace("DPO", str(folders / "dpo"))
    with pytest.raises(ValueError, match=said):
        read_sources(text, sft=folders / "sft")


def reply(number: int) -> SftRow:
    return SftRow(
        id=f"r{number}", task="reply", channel="chat", difficulty="easy", input=f"question {number}",
        context=f"R{number}: a rule.", output=f"answer {number}",
    )  # fmt: skip


def test_each_source_is_asked_in_its_own_way(folders):
    base, few, sft = read_sources("base at 0.7, few-shot at 0.7, sft at 0.0", sft=folders / "sft")
    shown = worked_examples([reply(1)], seed=1)
    told = f"{SYSTEM['assistant']}\n{tasks.HINTS['reply']}"
    assert sft.chat("Hi", shown) == assistant_chat("Hi")
    assert base.chat("Hi", shown) == [{"role": "system", "content": told}, {"role": "user", "content": "Hi"}]
    assert few.chat("Hi", shown) == [
        {"role": "system", "content": told},
        {"role": "user", "content": "question 1"},  # without its policy: the message comes without one
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": "Hi"},
    ]


def test_the_worked_replies_are_those_that_00_shows():
    train = load_jsonl(data_path("sft/train.jsonl"), SftRow)
    as_in_00 = tasks.pick_examples(train, per_task={"classify": 10, "reply": 3, "summary": 3}, seed=17)["reply"]
    assert [row.id for row in worked_examples(train, seed=17)] == [row.id for row in as_in_00]


@pytest.mark.parametrize("seed", range(5))
def test_three_sources_on_three_prompts_meet_twice_each(seed):
    """Two items a prompt make six, and there are three pairs: 6 / 3 = 2. One answer a prompt is compared twice."""
    made = pair_up(["a", "b", "c"], ["p", "q", "r"], seed=seed)
    assert list(made) == ["p", "q", "r"]
    assert Counter(itertools.chain(*made.values())) == {("a", "b"): 2, ("a", "c"): 2, ("b", "c"): 2}
    for pairs in made.values():
        assert len(set(pairs)) == 2 and set(itertools.chain(*pairs)) == {"a", "b", "c"}


@pytest.mark.parametrize("seed", range(5))
def test_four_sources_on_three_prompts_meet_once_each(seed):
    """Two items a prompt that share no answer: the three ways to split four into two pairs, each once."""
    made = pair_up(list("abcd"), ["p", "q", "r"], seed=seed)
    assert Counter(itertools.chain(*made.values())) == dict.fromkeys(itertools.combinations("abcd", 2), 1)
    assert all(Counter(itertools.chain(*pairs)) == dict.fromkeys("abcd", 1) for pairs in made.values())


@pytest.mark.parametrize("k", [2, 5, 6, 7])
def test_many_sources_meet_about_equally_often(k):
    names = list("abcdefg")[:k]
    made = pair_up(names, [f"p{n}" for n in range(100)], seed=3)
    assert all(len(pairs) == -(-k // 2) and set("".join(map("".join, pairs))) == set(names) for pairs in made.values())
    met = Counter(itertools.chain(*made.values()))
    assert set(met) == set(itertools.combinations(names, 2))
    assert max(met.values()) - min(met.values()) <= 2
    assert pair_up(names, list(made), seed=3) == made
    assert k == 2 or pair_up(names, list(made), seed=4) != made


def test_sources_to_pair_are_two_or_more_and_differ():
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="expected two or more sources, each named once"):
            pair_up(names, ["p"], seed=1)


def item(number: int, source_a: str, source_b: str) -> Candidate:
    return Candidate(
        id=f"c{number}", prompt_id="p", prompt="Where is my parcel?", kind="production", cluster="k",
        answer_a="x", answer_b="y", source_a=source_a, source_b=source_b,
    )  # fmt: skip


def test_the_source_table_by_hand():
    """Four items, eight answers. Sampled are 2 + 2 of the first two items, 1 of the third, 0 of the fourth: 5 / 8."""
    items = [
        item(1, "sft at 0.0", "base at 0.7"),
        item(2, "base at 0.7", "sft at 0.0"),
        item(3, "authored", "sft at 0.0"),
        item(4, "over-refusal, authored for another prompt", "authored"),
    ]
    made = source_table(items, fresh=["c1", "c3"])
    assert [(row["answers of"], row["items"], row["of these fresh"]) for row in made] == [
        ("base at 0.7 · sft at 0.0", 2, 1),
        ("authored · over-refusal, authored for another prompt", 1, 0),
        ("authored · sft at 0.0", 1, 1),
        ("all", 4, 2),
    ]
    assert [row["answers sampled from a model"] for row in made] == [1.0, 0.0, 0.5, 0.625]
    with pytest.raises(ValueError, match="expected at least one item"):
        source_table([])


def test_one_model_is_held_at_a_time(folders, monkeypatch):
    alive: list[weakref.ref] = []
    loaded = []

    class Model:
        pass

    def load(model_id, adapters, **where):
        gc.collect()
        assert [ref for ref in alive if ref() is not None] == [], "the model before is still there"
        loaded.append((model_id, adapters, where))
        model = Model()
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(sources.models, "load_merged", load)
    monkeypatch.setattr(sources.models, "load_tokenizer", lambda model_id: f"tokenizer of {model_id}")
    model = folders / "model"
    listed = read_sources(f"sft at 0.0, sft at 0.9, base at 0.7, few-shot at 0.7, {model} at 0", sft=folders / "sft")
    held = OneModel("embedded", dtype="fp32", device="cpu")
    said = [held.of(source)[1] for source in listed]
    assert said == ["tokenizer of embedded"] * 4 + [f"tokenizer of {model}"]
    where = {"dtype": "fp32", "device": "cpu"}
    assert loaded == [("embedded", [folders / "sft"], where), ("embedded", [], where), (str(model), [], where)]
    held.close()
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []
