"""Everyday questions: what counts as right, and the log-probs of written answers beside a plain forward pass."""

from types import SimpleNamespace

import pytest
from tiny import TinyTokenizer, next_logits, tiny_model

from ftlib import everyday
from ftlib.records import EverydayQuestion, data_path, load_jsonl

QUESTIONS = load_jsonl(data_path("prompts/everyday.jsonl"), EverydayQuestion)
A = EverydayQuestion(id="a", prompt="P?", answer="ab", accept=["7", "seven days"])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("7", True),
        ("It has SEVEN DAYS.", True),
        ("seven", False),
        ("17", False),
        ("7th", False),
        ("(7)", True),
        ("", False),
    ],
)
def test_an_accepted_word_stands_alone(text, right):
    assert everyday.is_right(A, text) is right


def test_each_written_answer_is_right_and_each_question_alone_is_not():
    assert len(QUESTIONS) == 20
    for question in QUESTIONS:
        assert everyday.is_right(question, question.answer), question.id
        assert not everyday.is_right(question, question.prompt), question.id


def test_no_written_answer_passes_for_another_questions():
    """A model that says one thing to everything is not taken for one that knows."""
    for said in QUESTIONS:
        assert sum(everyday.is_right(question, said.answer) for question in QUESTIONS) <= 2, said.id


class Tokenizer(TinyTokenizer):
    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens and text.endswith(self.eos_token)
        return SimpleNamespace(input_ids=[*self.encode(text.removesuffix(self.eos_token)), self.eos_token_id])


def test_log_probs_of_an_answer_are_those_of_a_plain_pass():
    model, tokenizer = tiny_model(), Tokenizer()
    questions = [A, EverydayQuestion(id="b", prompt="Longer?", answer="xyz", accept=["x"])]
    found = everyday.answer_logprobs(model, tokenizer, questions)
    for question, value in zip(questions, found, strict=True):
        head, end = tokenizer.encode(f"user:{question.prompt}|>"), [*tokenizer.encode(question.answer), 1]
        plain = next_logits(model, head + end).log_softmax(-1)
        by_hand = [plain[len(head) - 1 + i, token].item() for i, token in enumerate(end)]
        assert value == pytest.approx(sum(by_hand) / len(end), abs=1e-4)
