"""A reward model as a judge: scores by hand, ties, each text once, and a tiny model trained by TRL."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_decisions import pair

from ftlib import judges
from ftlib.endpoint_judge import probe
from ftlib.reward_judge import RewardJudge, load_reward_model, ranked_right, reward_ids, reward_rows


class Letters:
    """A tokenizer: a letter is its place in the alphabet; a chat ends with 0, then 27, as ChatML with a new line."""

    pad_token_id = 0

    def apply_chat_template(self, chat, *, tokenize, return_dict):
        assert tokenize and return_dict and [m["role"] for m in chat] == ["user", "assistant"]
        said = "|".join(m["content"] for m in chat)
        return {"input_ids": [max(1, ord(c) - 96) if c != "|" else 30 for c in said] + [0, 27]}


class Counts(torch.nn.Module):
    """A reward model: how many "a" stand in what is not padding; counts its texts."""

    config = SimpleNamespace(num_labels=1)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.read = 0

    def forward(self, input_ids, attention_mask):
        self.read += len(input_ids)
        assert not self.training
        return SimpleNamespace(logits=(((input_ids == 1) & (attention_mask == 1)).sum(1, keepdim=True) * self.weight))


def test_training_and_judging_use_one_form():
    assert reward_ids(Letters(), "ab", "c") == [1, 2, 30, 3, 0, 27]
    rows = reward_rows(Letters(), [pair(1, "production", "c", "d")])
    question = reward_ids(Letters(), "question 1", "")[:-2]
    assert rows == [{"chosen_ids": [*question, 3, 0, 27], "rejected_ids": [*question, 4, 0, 27]}]


def test_each_text_is_scored_once_and_lands_at_its_place():
    judge = RewardJudge(Counts().train(), Letters())
    assert judge.scores(["b", "b", "ab", "b"], ["aaa", "c", "a", "aaa"]).tolist() == [3.0, 0.0, 2.0, 3.0]
    assert judge.scores(["b"], ["c"]).tolist() == [0.0]
    assert judge.model.read == 3
    many = [f"{'a' * n}" for n in range(40)]  # three batches, padded
    assert judge.scores(["z"] * 40, many).tolist() == list(range(40))


@pytest.mark.parametrize("tie, expected", [(0.2, [1.0, 0.0, 0.5]), (1.0, [0.5, 0.5, 0.5]), (0.99, [1.0, 0.0, 0.5])])
def test_a_difference_up_to_the_tie_is_none(tie, expected):
    """Scores 2 and 1; then turned round; then the same answer twice."""
    judge, rubric = RewardJudge(Counts(), Letters(), tie=tie), judges.Rubric("production", "b")
    assert [judge(rubric, *two) for two in (("aa", "a"), ("a", "aa"), ("a", "a"))] == expected


def test_it_stands_where_any_judge_stands():
    """Against "aaa", no decoy holds as many "a" but the long ones: those win in both orders."""
    judge, rubrics = RewardJudge(Counts(), Letters()), [judges.Rubric("production", "b")] * 2
    assert judges.judge_pairs(rubrics, ["a", "aa"], ["aa", "a"], judge=judge).tolist() == [1.0, 0.0]
    found = {row["decoy"]: row["win-rate"] for row in probe(judge, rubrics, ["b"] * 2)}
    assert found["constant, long"] == 1.0 and len(found) == 6


def test_pairs_ranked_right():
    pairs = [pair(1, "production", "aa", "a"), pair(2, "production", "b", "a"), pair(3, "production", "c", "b")]
    assert ranked_right(RewardJudge(Counts(), Letters()), pairs).tolist() == [1.0, 0.0, 0.5]


def test_what_is_no_reward_model_is_refused():
    two = Counts()
    two.config = SimpleNamespace(num_labels=2)
    for given in ((two, 0.2), (Counts(), -1.0), (Counts(), float("nan"))):
        with pytest.raises(ValueError, match="one output"):
            RewardJudge(given[0], Letters(), tie=given[1])
    with pytest.raises(ValueError, match="got 1 and 2"):
        RewardJudge(Counts(), Letters()).scores(["a"], ["a", "b"])


def test_a_tiny_model_learns_its_pairs_by_trl(tmp_path):
    """Answers with token 50 are chosen over ones with 60; after 30 steps all of them rank right, also longer ones."""
    from datasets import Dataset
    from tiny import TinyTokenizer, tiny_model
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from ftlib import train as ft

    tiny_model().save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    model = LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)

    class Tokenizer(TinyTokenizer):
        padding_side = "right"

        def get_vocab(self):
            return {self.pad_token: 0, self.eos_token: 1}

        def apply_chat_template(self, chat, *, tokenize, return_dict):
            return {"input_ids": [i for m in chat for i in self.encode(m["content"])] + [1, 99]}

    texts = [("q" * n, chr(79) * m, chr(89) * m) for n in (1, 2, 3) for m in (1, 2)]
    pairs = [pair(n, "production", c, r).model_copy(update={"prompt": q}) for n, (q, c, r) in enumerate(texts)]
    args = RewardConfig(
        output_dir=str(tmp_path / "out"), max_steps=30, per_device_train_batch_size=6, learning_rate=1e-2, bf16=False,
        fp16=False, use_cpu=True, activation_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1,
        disable_tqdm=True, remove_unused_columns=False, seed=1,
    )  # fmt: skip
    trainer = RewardTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(reward_rows(Tokenizer(), pairs)),
        processing_class=Tokenizer(),
    )  # fmt: skip
    ft.quiet(trainer)
    trainer.train()
    judge = RewardJudge(trainer.model, Tokenizer())
    assert ranked_right(judge, pairs).tolist() == [1.0] * 6
    longer = [pair(9, "production", "O" * 5, "Y" * 5).model_copy(update={"prompt": "qqqqq"})]
    assert ranked_right(judge, longer).tolist() == [1.0]
    assert np.isfinite(judge.scores(["q"], ["O"])).all()


def test_a_saved_reward_model_scores_as_it_did(tmp_path):
    """Adapter and head come back from the folder; an adapter without a head is no reward model."""
    from peft import LoraConfig, get_peft_model
    from tiny import TinyTokenizer, tiny_model
    from transformers import LlamaForSequenceClassification

    tiny_model().save_pretrained(tmp_path / "base")
    base = LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    model = get_peft_model(base, LoraConfig(**lora, task_type="SEQ_CLS")).eval()
    model.save_pretrained(tmp_path / "whole")
    ids = torch.tensor([[40, 50, 60, 70]])
    found = load_reward_model(tmp_path / "base", tmp_path / "whole", TinyTokenizer())
    with torch.inference_mode():
        assert torch.allclose(found(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-6)
    assert RewardJudge(found, Letters()).scores(["b"], ["c"]).shape == (1,)
    get_peft_model(tiny_model(), LoraConfig(**lora, task_type="CAUSAL_LM")).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="expected a trained head"):
        load_reward_model(tmp_path / "base", tmp_path / "headless", TinyTokenizer())
