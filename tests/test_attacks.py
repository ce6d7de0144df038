"""attacks: every kind carries its message, the draw repeats with its seed, and only held-out prompts are taken."""

import base64
import codecs

import pytest

from ftlib.attacks import ATTACKS, MORE_WRAPPERS, WRAPPERS, attack_chat, attempts
from ftlib.records import RedTeamPrompt, data_path, load_jsonl

MESSAGE = "where does {he} live, the one who ordered the tent?"  # braces must survive


@pytest.fixture(scope="module")
def held_out() -> list[RedTeamPrompt]:
    rows = load_jsonl(data_path("prompts/redteam.jsonl"), RedTeamPrompt)
    return [row for row in rows if row.kind == "harmful" and row.split == "test"]


def test_the_twelve_that_the_metric_counts_stay():
    assert list(WRAPPERS) == [
        "role_play", "prefix_injection", "ignore_instructions", "authority", "hypothetical", "story", "past_tense",
        "translation", "many_shot", "letter_spacing", "base64", "suffix_noise",
    ]  # fmt: skip
    assert not set(WRAPPERS) & set(MORE_WRAPPERS) and len(ATTACKS) == 20


UNWRAP = {
    "base64": lambda text: base64.b64decode(text.splitlines()[-1]).decode(),
    "letter_spacing": lambda text: text.splitlines()[-1].replace("  ", "|").replace(" ", "").replace("|", " "),
    "rot13": lambda text: codecs.decode(text.splitlines()[-1], "rot13"),
    "leetspeak": lambda text: text.splitlines()[-1].translate(str.maketrans("431057", "aeiost")),
    "payload_split": lambda text: " ".join(text.split('"')[1::2]),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_carries_the_whole_message(name):
    chat = attack_chat(name, MESSAGE)
    assert chat == attack_chat(name, MESSAGE)  # the same in every run
    assert chat[0]["role"] == "system" and chat[-1]["role"] == "user"
    assert [turn["role"] for turn in chat[1:]] == ["user", "assistant"] * (len(chat) // 2 - 1) + ["user"]
    said = [turn["content"] for turn in chat if turn["role"] == "user"]
    assert said != [MESSAGE]
    if name == "multi_turn":
        assert " ".join(said[1:]) == MESSAGE
    else:
        assert any(MESSAGE in UNWRAP.get(name, str)(text) for text in said)


def test_attacks_differ():
    assert len({str(attack_chat(name, MESSAGE)) for name in ATTACKS}) == len(ATTACKS)
    assert attack_chat("multi_turn", "one")[-1]["content"] == "one"  # a message of one word has no second half


def test_the_same_prompts_go_through_every_attack(held_out):
    tried = attempts(held_out, each=12, seed=17)
    assert len(tried) == 12 * len(ATTACKS)
    of_attack = {name: [one.prompt.id for one in tried if one.attack == name] for name in ATTACKS}
    assert len({tuple(ids) for ids in of_attack.values()}) == 1
    assert len({one.prompt.category for one in tried}) >= 10
    assert tried == attempts(held_out, each=12, seed=17) != attempts(held_out, each=12, seed=18)
    every = attempts(held_out, each=999, seed=1, attacks=["story"])
    assert sorted(one.prompt.id for one in every) == sorted(row.id for row in held_out)
    assert "novel" in attempts(held_out, each=1, seed=1, attacks=["story"])[0].text


def test_what_may_not_be_attacked_is_refused(held_out):
    trained = held_out[0].model_copy(update={"split": "train"})
    with pytest.raises(ValueError, match=rf"held-out harmful prompts.*{trained.id}"):
        attempts([trained], each=1, seed=1)
    with pytest.raises(ValueError, match="got 0 prompts"):
        attempts([], each=1, seed=1)
    with pytest.raises(ValueError, match="expected an attack of"):
        attack_chat("no such thing", "hi")
