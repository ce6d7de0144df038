"""What training on a narrow task costs elsewhere: general questions with checkable answers, before and after.

Two measures on the same questions: is the sampled answer right, and how likely is a written right answer? The second
moves long before the first does.

Left out on purpose: a benchmark of general ability. Twenty questions show a model that has lost its general answers,
not one that has lost a little.
"""

import re
from collections.abc import Sequence

import numpy as np

from ftlib.generate import chat_ids
from ftlib.records import EverydayQuestion

BATCH = 8  # questions in one forward pass


def is_right(question: EverydayQuestion, text: str) -> bool:
    """Whether an answer holds one of the accepted words, whole and whatever their case ("17" is not "7").

    Example:
        >>> seven = EverydayQuestion(id="q", prompt="Days?", answer="Seven.", accept=["seven", "7"])
        >>> is_right(seven, "It has Seven."), is_right(seven, "17")
        (True, False)
    """
    return any(re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) for words in question.accept)


def chats(questions: Sequence[EverydayQuestion]) -> list[list[dict[str, str]]]:
    """The questions as a user asks them, without the shop's system message."""
    return [[{"role": "user", "content": question.prompt}] for question in questions]


def answer_logprobs(model, tokenizer, questions: Sequence[EverydayQuestion]) -> np.ndarray:
    """Mean log-prob a token of each question's written answer and its stop token, in nats; shape (questions,)."""
    import torch

    from ftlib.train import token_logprobs

    ends = [tokenizer(q.answer + tokenizer.eos_token, add_special_tokens=False).input_ids for q in questions]
    rows = list(zip(chat_ids(tokenizer, chats(questions)), ends, strict=True))
    with torch.inference_mode():
        parts = [token_logprobs(model, rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)]
    return np.array([float(found.mean()) for part in parts for found in part])
