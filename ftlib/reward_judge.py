"""A reward model as a judge: two answers are compared by the scores that a model trained on pairs gives them.

Bradley and Terry: the first answer wins with probability σ(score one - score two), which is what TRL's RewardTrainer
fits. A score means something beside another answer to the *same* prompt only, so scores of different prompts are never
compared. The same form of a text is used for training and for judging; the system message, the same for all, is left
out: it would be read for every answer and tells the answers of one prompt apart by nothing.

A reward model learns what its pairs reward, their faults too (length, phrases), so it is probed by decoys
(`endpoint_judge.probe`) and held beside another judge before it is believed.

Left out on purpose: training (the notebook calls RewardTrainer), scores of parts of an answer, and calibration.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ftlib.judges import Rubric
from ftlib.records import PreferencePair

BATCH = 16  # texts a forward pass


def reward_ids(tokenizer, prompt: str, answer: str) -> list[int]:
    """Token ids of a question and an answer in the chat form of the model, without a system message."""
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]


def reward_rows(tokenizer, pairs: Iterable[PreferencePair]) -> list[dict]:
    """Tokenised rows {"chosen_ids", "rejected_ids"} for a RewardTrainer."""
    return [
        {f"{side}_ids": reward_ids(tokenizer, pair.prompt, getattr(pair, side)) for side in ("chosen", "rejected")}
        for pair in pairs
    ]


class RewardJudge:
    """A judge for `judges.judge_pairs`: (rubric, first, second) -> 1, 0.5 or 0, the first answer's result.

    Args:
        model: a sequence classifier with one output, as a RewardTrainer leaves it.
        tie: a difference of scores (in logits) up to which two answers are a tie; 0.2 is a win probability of 0.55.

    Raises:
        ValueError: a model with more than one output, or a tie that is negative or no number.
    """

    def __init__(self, model, tokenizer, *, tie: float = 0.2):
        labels = getattr(model.config, "num_labels", None)
        if labels != 1 or not 0 <= tie < math.inf:
            raise ValueError(f"RewardJudge: expected a model with one output and tie >= 0, got {labels} and {tie}")
        self.model, self.tokenizer, self.tie = model.eval(), tokenizer, tie
        self._known: dict[tuple[str, str], float] = {}

    def scores(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """The reward of each answer to its prompt, in logits, shape (n,); each text is scored once.

        Raises:
            ValueError: as many prompts as answers are needed.
        """
        if len(prompts) != len(answers):
            raise ValueError(f"RewardJudge: expected one answer a prompt, got {len(prompts)} and {len(answers)}")
        wanted = list(zip(prompts, answers, strict=True))
        new = [one for one in dict.fromkeys(wanted) if one not in self._known]
        ids = {one: reward_ids(self.tokenizer, *one) for one in new}
        new.sort(key=lambda one: len(ids[one]))  # texts of like length share a batch: little padding
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            self._known |= dict(zip(part, self._forward([ids[one] for one in part]), strict=True))
        return np.array([self._known[one] for one in wanted])

    def __call__(self, rubric: Rubric, first: str, second: str) -> float:
        """Which of two answers to the rubric's prompt scores higher; the rest of the rubric is not looked at."""
        difference = float(np.subtract(*self.scores([rubric.prompt] * 2, [first, second])))
        return 0.5 if abs(difference) <= self.tie else float(difference > 0)

    def _forward(self, rows: list[list[int]]) -> list[float]:
        import torch

        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
        with torch.inference_mode():
            device = next(self.model.parameters()).device
            return self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, 0].float().tolist()


def load_reward_model(folder: str | Path, adapter: str | Path, tokenizer, *, device: str = "cpu"):
    """A reward model as a RewardTrainer with LoRA has left it: the base, its adapter, and the trained head, in fp32.

    In bf16 scores that lie near each other would come out equal.
    Args:
        folder: the base model that it was trained on.
        adapter: where the trainer's model was saved; a folder of a LoraConfig with task_type="SEQ_CLS" holds the head.

    Raises:
        ValueError: a folder without a trained head: its scores would be drawn.
    """
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as messages

    with safe_open(Path(adapter) / "adapter_model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        if not any(".score." in name for name in names):
            raise ValueError(f"{adapter}: expected a trained head (score), found none; train with task_type='SEQ_CLS'")
    level = messages.get_verbosity()
    messages.set_verbosity_error()  # it would report a new head, in whose place comes the one of the adapter's folder
    try:
        base = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype="float32", device_map={"": device}
        )
    finally:
        messages.set_verbosity(level)
    base.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # finds a text's last token by it
    return PeftModel.from_pretrained(base, adapter).eval()


def ranked_right(judge: RewardJudge, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """1 where the chosen answer of a pair scores higher, 0.5 for equal scores, 0 else; shape (n,)."""
    prompts = [pair.prompt for pair in pairs]
    chosen, rejected = (judge.scores(prompts, [getattr(x, side) for x in pairs]) for side in ("chosen", "rejected"))
    return 0.5 + 0.5 * np.sign(chosen - rejected)
