"""Sampling against what it replaces: stock `generate` and a plain forward pass, in fp32, on a tiny random model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import STOPS, TinyTokenizer, next_logits, tiny_model, tiny_nf4_peft, tiny_peft
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from ftlib.generate import (
    Memory,
    MergedCopy,
    _Conversations,
    _draw,
    _StopStrings,
    answer_text,
    chat_ids,
    fast_rollouts,
    logit_change,
    sample,
    sample_chats,
)
from ftlib.models import load_model, load_tokenizer

TOKENIZER = TinyTokenizer()


def random_prompts(n: int, *, prefix: int = 0, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to 12 own tokens behind `prefix` shared ones; first own tokens differ, so no more is shared."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(30, 98, prefix).tolist()
    return [shared + [30 + i] + rng.integers(30, 98, rng.integers(0, 12)).tolist() for i in range(n)]


def stock_greedy(model, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """What `model.generate` writes, up to and with the first stop token."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for r, prompt in enumerate(prompts):
        ids[r, width - len(prompt) :] = torch.tensor(prompt)
        mask[r, width - len(prompt) :] = 1
    out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0)
    texts = []
    for row in out[:, width:].tolist():
        stop = next((i for i, token in enumerate(row) if token in STOPS), len(row) - 1)
        texts.append(row[: stop + 1])
    return texts


def ids_of(samples) -> list[list[int]]:
    return [s.token_ids for s in samples]


def tokens_read(model) -> list[int]:
    """Tokens of each forward pass from now on; the rows lie end to end in one stream."""
    seen: list[int] = []

    def note(module, args, kwargs):
        assert len(kwargs["input_ids"]) == 1
        seen.append(kwargs["input_ids"].numel())

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize("prefix", [0, 1, 9])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_greedy_writes_what_stock_generate_writes(prefix, batch_size):
    model = tiny_model(stops=STOPS)
    prompts = random_prompts(24, prefix=prefix)
    samples = sample(model, TOKENIZER, prompts, max_new_tokens=20, batch_size=batch_size)
    assert ids_of(samples) == stock_greedy(model, prompts, 20)
    assert {s.stopped for s in samples} == {True, False}  # both kinds of row were there
    assert len({tuple(s.token_ids) for s in samples}) > 12  # and they are not all the same text


def test_equal_prompts_keep_one_token_of_their_own():
    model = tiny_model(stops=STOPS)
    prompts = [[40, 41, 42]] * 3 + [[40, 41, 42, 43]]
    assert ids_of(sample(model, TOKENIZER, prompts, max_new_tokens=9)) == stock_greedy(model, prompts, 9)


def test_shared_tokens_are_read_once():
    """A prefix of 10 tokens, then the rest of the six prompts, in two groups of three, and a step of each."""
    model = tiny_model()
    prompts = random_prompts(6, prefix=10)
    own = sum(map(len, prompts)) - 60
    seen = tokens_read(model)
    sample(model, TOKENIZER, prompts, max_new_tokens=2, batch_size=3)
    assert seen[0] == 10 and seen[2] == seen[4] == 3
    assert seen[1] + seen[3] == own


def test_no_token_of_padding_is_read():
    model = tiny_model()
    prompts = [[40] * n for n in (1, 30, 7)]
    prompts[1][0], prompts[2][0] = 41, 42
    seen = tokens_read(model)
    samples = sample(model, TOKENIZER, prompts, max_new_tokens=1)
    assert sum(seen) == 38
    assert [s.token_ids[0] for s in samples] == [next_logits(model, p)[-1].argmax().item() for p in prompts]


def test_families_share_more_than_all_rows_do(monkeypatch):
    """Two system prompts of 30 and 20 tokens behind 4 common ones: each is read once, and the texts stay the same."""
    model = tiny_model(stops=STOPS)
    rng = np.random.default_rng(0)
    systems = [[50, 51, 52, 53, first] + rng.integers(30, 98, n - 5).tolist() for first, n in ((60, 34), (61, 24))]
    prompts = [systems[i % 2] + [40 + i] + rng.integers(30, 98, 3).tolist() for i in range(8)]
    monkeypatch.setattr("ftlib.generate.FAMILY_SAVES", 40)
    expected = stock_greedy(model, prompts, 15)
    seen = tokens_read(model)
    assert ids_of(sample(model, TOKENIZER, prompts, max_new_tokens=15)) == expected
    assert sorted(seen[:2]) == [24, 34] and sum(seen[2:4]) == 8 * 4


@pytest.mark.parametrize("groups, rows", [(1, 1), (4, 3), (32, 64)])
def test_rows_that_wait_take_the_place_of_those_that_finish(groups, rows, monkeypatch):
    """However few rows fit in, texts stay those of stock `generate`, and never are more rows in flight."""
    model = tiny_model(stops=STOPS)
    monkeypatch.setattr("ftlib.generate.GROUP", groups)
    prompts = random_prompts(20, prefix=3)
    assert ids_of(sample(model, TOKENIZER, prompts, max_new_tokens=20, batch_size=rows)) == stock_greedy(
        model, prompts, 20
    )


def test_the_states_in_flight_stay_within_their_memory(monkeypatch):
    """With room for one group, the next one is read when the one before it is through."""
    model = tiny_model()
    monkeypatch.setattr("ftlib.generate.STATE_MB", 0)
    monkeypatch.setattr("ftlib.generate.GROUP", 2)
    prompts = [[40 + i] * 4 for i in range(6)]
    seen = tokens_read(model)
    sample(model, TOKENIZER, prompts, max_new_tokens=3)
    assert seen == [8, 2, 2] * 3


def test_a_prompt_that_comes_several_times_is_read_once():
    """Two prompts, four rows each: two rows are read, eight are sampled, each with draws of its own."""
    model = tiny_model(stops=STOPS)
    prompts = [p for p in random_prompts(2) for _ in range(4)]
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5}
    seen = tokens_read(model)
    together = ids_of(sample(model, TOKENIZER, prompts, **options))
    assert seen[0] == len(prompts[0]) + len(prompts[4]) and 4 < seen[1] <= 8
    assert together == ids_of(sample(model, TOKENIZER, prompts, batch_size=1, **options))
    assert len(set(map(tuple, together[:4]))) > 1


def test_a_frozen_vocabulary_matrix_is_not_copied_for_each_row():
    """`logits_to_keep=1` would: one (V, H) copy a row, 7 GB for 128 rows of the embedded model. Seen by the shapes."""
    model = tiny_model().requires_grad_(False)
    with torch.profiler.profile(record_shapes=True) as profile:
        sample(model, TOKENIZER, random_prompts(6), max_new_tokens=1)
    products = [e.input_shapes for e in profile.events() if e.name in ("aten::mm", "aten::bmm", "aten::addmm")]
    head = [shapes for shapes in products if any(100 in shape for shape in shapes)]
    assert head and all(shape in ([6, 32], [32, 100]) for shapes in head for shape in shapes[:2])


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_a_row_does_not_depend_on_batch_size(batch_size):
    model = tiny_model(stops=STOPS)
    prompts = random_prompts(15, prefix=4)
    options = {"max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    assert ids_of(sample(model, TOKENIZER, prompts, batch_size=batch_size, **options)) == ids_of(
        sample(model, TOKENIZER, prompts, batch_size=64, **options)
    )


def test_a_row_does_not_depend_on_its_batch_mates():
    """Row i keeps its text when all others change, and when no prefix is shared any more."""
    model = tiny_model(stops=STOPS)
    options = {"max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    prompts = random_prompts(8, prefix=5)
    texts = ids_of(sample(model, TOKENIZER, prompts, **options))
    for i in (0, 3, 7):
        others = random_prompts(8, seed=i + 1)
        mixed = [*others[:i], prompts[i], *others[i + 1 :]]
        assert ids_of(sample(model, TOKENIZER, mixed, **options))[i] == texts[i]


def test_seed_and_index_fix_the_draws():
    model = tiny_model()
    prompts = [[50, 51, 52]] * 6
    options = {"max_new_tokens": 8, "temperature": 1.0}
    one = ids_of(sample(model, TOKENIZER, prompts, seed=1, **options))
    assert one == ids_of(sample(model, TOKENIZER, prompts, seed=1, **options))
    assert one != ids_of(sample(model, TOKENIZER, prompts, seed=2, **options))
    assert len(set(map(tuple, one))) > 1  # equal prompts, each with draws of its own


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_are_those_of_a_plain_forward_pass(temperature):
    """Under the untempered model, also where the draw was tempered."""
    model = tiny_model(stops=STOPS)
    prompts = random_prompts(10, prefix=3)
    for prompt, s in zip(
        prompts, sample(model, TOKENIZER, prompts, max_new_tokens=12, temperature=temperature), strict=True
    ):
        plain = next_logits(model, prompt + s.token_ids).log_softmax(-1)[len(prompt) - 1 : -1]
        picked = plain[torch.arange(len(s.token_ids)), torch.tensor(s.token_ids)]
        assert len(s.logprobs) == len(s.token_ids)
        assert torch.allclose(torch.tensor(s.logprobs), picked, atol=1e-4)


def expected_probs(model, prompt, *, temperature, top_k, top_p) -> np.ndarray:
    """By the definitions: temper, keep the k most likely, renormalise, keep the nucleus, renormalise."""
    probs = (next_logits(model, prompt)[-1].double() / temperature).softmax(-1).numpy()
    order = np.argsort(-probs)
    probs[order[top_k:]] = 0
    probs /= probs.sum()
    sums = np.cumsum(probs[order])
    probs[order[int(np.argmax(sums >= top_p - 1e-12)) + 1 :]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(3.0, 100, 1.0), (2.0, 8, 1.0), (3.0, 100, 0.8), (2.5, 12, 0.6)]
)
def test_draws_agree_with_the_softmax(temperature, top_k, top_p):
    model, prompt, n = tiny_model(), [44, 60, 71, 38], 4000
    draws = [
        s.token_ids[0]
        for s in sample(
            model, TOKENIZER, [prompt] * n, max_new_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p,
            seed=5, batch_size=n,
        )
    ]  # fmt: skip

    def p_value(probs):
        counts = np.bincount(draws, minlength=100)
        rare = probs * n < 5  # pooled, as the chi-square test asks
        seen, wanted = [*counts[~rare], counts[rare].sum()], [*probs[~rare] * n, probs[rare].sum() * n]
        if wanted[-1] == 0:
            seen, wanted = seen[:-1], wanted[:-1]
        return stats.chisquare(seen, wanted).pvalue

    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    probs = expected_probs(model, prompt, **options)
    assert (probs > 0).sum() >= 4
    assert p_value(probs) > 1e-3
    assert np.bincount(draws, minlength=100)[probs == 0].sum() == 0
    # The test can fail: draws at another temperature would not pass.
    flat = np.where(probs > 0, probs**0.7, 0)
    assert p_value(flat / flat.sum()) < 1e-3


def test_one_draw_by_hand():
    """Probabilities .2, .5, .3: sorted .5, .3, .2 with sums .5, .8, 1. Two kept: .625, .375."""
    logits = torch.tensor([0.2, 0.5, 0.3]).log().repeat(5, 1)
    u = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81])
    assert _draw(logits, u, 3, 1.0).tolist() == [1, 1, 2, 2, 0]
    u = torch.tensor([0.0, 0.49, 0.62, 0.63, 0.99])
    assert _draw(logits, u, 2, 1.0).tolist() == [1, 1, 1, 2, 2]
    assert _draw(logits, u, 3, 0.4).tolist() == [1] * 5  # the smallest set that reaches .4 is the first token
    assert _draw(logits, u, 3, 0.6).tolist() == [1, 1, 1, 2, 2]


def test_a_draw_that_rounds_to_one_stays_in_the_nucleus():
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    assert _draw(logits, torch.tensor([1.0]), 3, 0.6).tolist() == [2]


def test_stop_tokens_end_a_row_and_are_not_in_its_text():
    model = tiny_model(stops=[25, 26])
    samples = sample(model, TOKENIZER, random_prompts(40), max_new_tokens=30, temperature=1.5, seed=1)
    stops = {1, 25, 26}  # the model's and the tokenizer's
    for s in samples:
        assert s.stopped == (s.token_ids[-1] in stops)
        assert not stops & set(s.token_ids[:-1])
        assert s.stopped or len(s.token_ids) == 30
        assert s.text == TOKENIZER.decode([i for i in s.token_ids if i > 1]).strip()
    assert {s.stopped for s in samples} == {True, False}
    assert {s.token_ids[-1] for s in samples if s.stopped} == stops


# --- stop strings


def slow_reference(model, prompt: list[int], limit: int, stop: list[str]) -> tuple[str, list[int]]:
    """Greedy, one plain forward pass a token; all that was written is decoded after each."""
    ids: list[int] = []
    while len(ids) < limit:
        ids.append(next_logits(model, prompt + ids)[-1].argmax().item())
        text = TOKENIZER.decode(ids, skip_special_tokens=True)
        found = [text.index(one) for one in stop if one in text]
        if found:
            return text[: min(found)].strip(), ids
        if ids[-1] in STOPS:
            break
    return text.strip(), ids


def test_a_row_ends_with_a_stop_string_as_in_a_slow_loop():
    """Strings of one to three tokens, from what the rows write without them; rows end in steps of their own."""
    model, prompts = tiny_model(stops=STOPS), random_prompts(24, prefix=3)
    plain = sample(model, TOKENIZER, prompts, max_new_tokens=30)
    long = [text for text in (TOKENIZER.decode(s.token_ids) for s in plain) if len(text) > 20]
    stop = [long[0][4:7], long[1][9:11], long[2][12]]
    found = sample(model, TOKENIZER, prompts, max_new_tokens=30, stop=stop, batch_size=10)
    assert [(s.text, s.token_ids) for s in found] == [slow_reference(model, p, 30, stop) for p in prompts]
    cut = [
        i for i, (s, before) in enumerate(zip(found, plain, strict=True)) if len(s.token_ids) < len(before.token_ids)
    ]
    assert 3 < len(cut) < len(prompts) and len({len(found[i].token_ids) for i in cut}) > 3
    for s, before in zip(found, plain, strict=True):  # what was drawn, and its log-probs, up to the end of the string
        n = len(s.token_ids)
        assert s.token_ids == before.token_ids[:n]
        assert s.logprobs == pytest.approx(before.logprobs[:n], abs=1e-4)
    assert all(found[i].stopped and not any(one in found[i].text for one in stop) for i in cut)


def test_stop_strings_end_a_row_where_transformers_ends_it():
    """With the embedded tokenizer, whose tokens are pieces of words: greedy `generate(stop_strings=…)`, row by row."""
    tokenizer = load_tokenizer("embedded")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    prompts = [
        tokenizer(text)["input_ids"] for text in ("Where is my order?", "The boots", "Hello, I want my money back")
    ]
    pieces = [
        [tokenizer.decode([i]) for i in s.token_ids] for s in sample(model, tokenizer, prompts, max_new_tokens=20)
    ]
    over_two = lambda row, at: pieces[row][at][-2:] + pieces[row][at + 1][:2]
    stop = [over_two(0, 6), over_two(1, 11), over_two(2, 3)]
    found = sample(model, tokenizer, prompts, max_new_tokens=20, stop=stop)
    for prompt, s in zip(prompts, found, strict=True):
        out = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=20, stop_strings=stop, tokenizer=tokenizer
        )
        written = out[0, len(prompt) :].tolist()
        assert s.token_ids == written and s.stopped and len(written) < 20
        text = tokenizer.decode(written, skip_special_tokens=True)
        assert s.text == text[: min(text.index(one) for one in stop if one in text)].strip()


def test_stop_strings_are_found_by_the_end_of_the_text_alone():
    """Fed token by token, with characters of four tokens and long lines: the same token as by decoding all of them,
    and a step decodes no more than some tokens, however long the text is."""
    tokenizer, asked = load_tokenizer("embedded"), []

    def decode(ids, **options):
        asked.append(len(ids))
        return tokenizer.decode(ids, **options)

    text = "Dear customer 🧗🏽, the mat (größer) is on its way… " * 12 + "x\n\nYours 🏔 END of it"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for stop in (["END"], ["\n\n"], ["🏔"], ["🏔 E", "nowhere"], ["s on its way… x"], ["never said"]):
        strings, row = _StopStrings(SimpleNamespace(decode=decode), stop), SimpleNamespace(ids=[], tail=0)
        asked.clear()
        found = None
        for n, token in enumerate(ids, start=1):
            row.ids.append(token)
            if found is None and strings.complete(row):
                found = n
        by_all = (n for n in range(1, len(ids) + 1) if any(one in tokenizer.decode(ids[:n]) for one in stop))
        assert found == next(by_all, None)
        whole = [n for n in asked if n > 60]
        assert len(ids) > 200 and len(whole) <= 1  # the one that makes sure


def test_special_tokens_between_do_not_hide_a_stop_string():
    """Ids 0 and 1 are special and not in the text: "a", then forty of them, then "b"."""
    strings, row = _StopStrings(TOKENIZER, ["ab"]), SimpleNamespace(ids=[], tail=0)
    found = []
    for token in [*TOKENIZER.encode("x" * 60 + "a"), *[0] * 40, *TOKENIZER.encode("b")]:
        row.ids.append(token)
        found.append(strings.complete(row))
    assert found == [False] * 101 + [True]


def test_a_text_is_cut_before_the_earliest_stop_string():
    ids = TOKENIZER.encode(" one two three")
    assert answer_text(TOKENIZER, ids, ["three", "two", "four"]) == "one"
    assert answer_text(TOKENIZER, ids, [" one"]) == ""
    assert answer_text(TOKENIZER, ids) == "one two three"


def test_a_conversation_goes_on_after_a_stop_string():
    """What was drawn stays drawn: the next turn reads on from the token that completed the string."""
    model, memory, prompt = tiny_model(), Memory(), [40, 41, 42, 43]
    whole = sample(model, TOKENIZER, [prompt], max_new_tokens=12)[0]
    stop = [TOKENIZER.decode(whole.token_ids[3:5])]
    (first,) = sample(model, TOKENIZER, [prompt], max_new_tokens=12, stop=stop, memory=memory)
    following = [*prompt, *first.token_ids, 50, 51]
    expected = ids_of(sample(model, TOKENIZER, [following], max_new_tokens=5))
    seen = tokens_read(model)
    assert ids_of(sample(model, TOKENIZER, [following], max_new_tokens=5, memory=memory)) == expected
    assert seen[0] == 3 and len(first.token_ids) <= 5


@pytest.mark.parametrize("stop", ["###", [""], [3], ["ok", None]])
def test_stop_strings_that_are_none(stop):
    with pytest.raises(ValueError, match=r"stop: expected a list of strings that are not empty, got .*give \[one\]"):
        sample(tiny_model(), TOKENIZER, [[4]], stop=stop)


# --- keys of rows


def test_a_row_with_a_key_has_the_same_text_in_any_list():
    """Three rows of eight, in another order and beside others: the same texts; by their places they would differ."""
    model, prompts = tiny_model(stops=STOPS), random_prompts(8, prefix=5)
    options = {"max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    keys = [100, 7, 7_000_000_000, 3, 4, 5, 6, 0]
    texts = ids_of(sample(model, TOKENIZER, prompts, row_seeds=keys, **options))
    places = [6, 2, 0]
    some, others = [prompts[i] for i in places], random_prompts(2, seed=9)
    again = sample(model, TOKENIZER, [*others, *some], row_seeds=[50, 51, *(keys[i] for i in places)], **options)
    assert ids_of(again)[2:] == [texts[i] for i in places]
    assert ids_of(sample(model, TOKENIZER, some, **options)) != [texts[i] for i in places]
    assert ids_of(sample(model, TOKENIZER, prompts, row_seeds=range(8), **options)) == ids_of(
        sample(model, TOKENIZER, prompts, **options)
    )  # places are the keys by default


@pytest.mark.parametrize("keys", [[1], [1, -1], [1, 0.5], [1, None]])
def test_keys_that_are_none(keys):
    with pytest.raises(ValueError, match="row_seeds: expected a whole number >= 0 for each of 2 rows, got"):
        sample(tiny_model(), TOKENIZER, [[4], [5]], row_seeds=keys)


def test_an_engine_in_the_models_place_is_given_the_rows():
    """What is not an engine's business stays here; options are checked before it is asked."""
    asked = []

    def answer(prompts, **options):
        asked.append((prompts, options))
        return ["answered"] * len(prompts)

    engine = SimpleNamespace(answer_prompts=answer)
    assert sample(engine, TOKENIZER, [[4], [5, 6]], temperature=0.5, stop=["x"], memory=Memory()) == ["answered"] * 2
    options = {"max_new_tokens": 64, "temperature": 0.5, "top_k": 50, "top_p": 1.0, "stop": ["x"], "seed": 0,
               "row_seeds": [0, 1], "progress": ""}  # fmt: skip
    assert asked == [([[4], [5, 6]], options)]
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        sample(engine, TOKENIZER, [[]])


def test_finished_rows_leave_the_batch(monkeypatch):
    model = tiny_model(stops=STOPS)
    monkeypatch.setattr("ftlib.generate.GROUP", 40)
    seen = tokens_read(model)
    samples = sample(model, TOKENIZER, random_prompts(40), max_new_tokens=40, temperature=1.5)
    rows = seen[1:]  # after the prompts
    assert rows == sorted(rows, reverse=True)
    for step, n in enumerate(
        rows, start=1
    ):  # rows of the step after token `step`: at most 1.25 times those still going
        going = sum(len(s.token_ids) > step for s in samples)
        assert going <= n <= going / 0.8
    assert len(seen) == max(len(s.token_ids) for s in samples)


def test_nothing_is_computed_after_the_last_row_stopped():
    model = tiny_model(stops=list(range(100)))
    seen = tokens_read(model)
    samples = sample(model, TOKENIZER, random_prompts(5), max_new_tokens=30)
    assert [len(s.token_ids) for s in samples] == [1] * 5
    assert len(seen) == 1


def test_no_prompts_give_no_samples():
    assert sample(tiny_model(), TOKENIZER, []) == []


def test_the_model_keeps_its_mode():
    model = tiny_model().train()
    sample(model, TOKENIZER, [[40]], max_new_tokens=1)
    assert model.training


def test_empty_prompt_is_named():
    with pytest.raises(ValueError, match="prompt 1 is empty: expected at least one token; drop the row"):
        sample(tiny_model(), TOKENIZER, [[4], []])


@pytest.mark.parametrize(
    "option",
    [{"max_new_tokens": 0}, {"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"batch_size": 0}],
)
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match="expected max_new_tokens >= 1, temperature >= 0, top_k >= 1, 0 < top_p <= 1"):
        sample(tiny_model(), TOKENIZER, [[4]], **option)


def test_progress_is_shown_only_where_it_was_asked_for(capsys):
    sample(tiny_model(), TOKENIZER, [[40]], max_new_tokens=1)
    assert capsys.readouterr() == ("", "")
    sample(tiny_model(), TOKENIZER, [[40]], max_new_tokens=1, progress="answering")
    out, err = capsys.readouterr()
    assert out == "" and "answering" in err


def test_chats_are_rendered_with_the_models_template():
    def look(): ...

    chats = [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "you"}]]
    assert chat_ids(TOKENIZER, chats) == [TOKENIZER.encode("user:hi|>"), TOKENIZER.encode("user:you|>")]
    assert chat_ids(TOKENIZER, chats, tools=[look])[0] == TOKENIZER.encode("user:hilook|>")
    model = tiny_model()
    assert sample_chats(model, TOKENIZER, chats, max_new_tokens=4) == sample(
        model, TOKENIZER, chat_ids(TOKENIZER, chats), max_new_tokens=4
    )


# --- the merged copy of a PEFT model


def change_adapter(peft_model) -> None:
    """One step of TRL's default optimiser: fused, so the weights' version counters stay as they were."""
    trained = [p for p in peft_model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.05, fused=True)
    peft_model(input_ids=torch.tensor([[40, 41, 42]])).logits.square().mean().backward()
    optimiser.step()


def test_the_merged_copy_has_the_logits_of_the_peft_model():
    policy, plain = tiny_peft(), tiny_model()
    ids = random_prompts(1, prefix=8)[0]
    before = next_logits(plain, ids)
    copy = MergedCopy(policy, plain)
    assert copy.model is plain
    assert torch.allclose(next_logits(plain, ids), next_logits(policy, ids), atol=1e-4)
    assert (next_logits(plain, ids) - before).abs().max() > 0.1  # the adapter matters


def test_the_merged_copy_follows_after_an_update():
    policy = tiny_peft()
    copy = MergedCopy(policy, tiny_model())
    change_adapter(policy)
    ids = [40, 41, 42, 43]
    assert logit_change(policy, copy.model, ids) > 0.01
    assert copy.refresh() is copy.model
    assert logit_change(policy, copy.model, ids) < 1e-4


def test_refreshing_builds_up_no_rounding():
    policy = tiny_peft()
    copy = MergedCopy(policy, tiny_model().to(torch.bfloat16))
    before = {name: weight.clone() for name, weight in copy.model.state_dict().items()}
    for _ in range(20):
        copy.refresh()
    assert all(torch.equal(before[name], weight) for name, weight in copy.model.state_dict().items())


def test_the_merged_copy_leaves_the_trained_model_alone():
    policy = tiny_peft()
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    MergedCopy(policy, tiny_model()).refresh()
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())


def test_the_merged_copy_of_an_nf4_model(tmp_path):
    """The copy holds the dequantised base, not the weights before quantisation; a look in eval mode changes nothing."""
    policy = tiny_nf4_peft(tmp_path)
    ids = [40, 41, 42, 43]
    next_logits(policy, ids)
    copy = MergedCopy(policy, load_model(str(tmp_path), dtype="fp32"))
    assert logit_change(policy, copy.model, ids) < 1e-3
    original = tiny_model(hidden=64).model.layers[0].self_attn.q_proj.weight
    _, target, kept = copy._pairs[0]
    assert kept.shape == target.weight.shape == original.shape
    assert 1e-3 < (kept - original).abs().max() < 0.3  # NF4 rounds, and only a little


def test_the_merged_copy_rounds_layers_without_an_adapter_too(tmp_path):
    policy = tiny_nf4_peft(tmp_path, exclude_modules=r".*\.layers\.(0)\..*")
    copy = MergedCopy(policy, load_model(str(tmp_path), dtype="fp32"))
    assert len(copy._pairs) == 7  # the products of the upper one of two layers
    assert logit_change(policy, copy.model, [40, 41, 42, 43]) < 1e-3


def test_the_merged_copy_refuses_packed_weights(tmp_path):
    policy = tiny_nf4_peft(tmp_path)
    packed = policy.get_base_model().model.layers[0].self_attn.q_proj.get_base_layer()
    packed.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match=r"q_proj: expected plain NF4 weights, got bitsandbytes' packed ones"):
        MergedCopy(policy, load_model(str(tmp_path), dtype="fp32"))


# --- TRL's rollouts


def call_generate(model, prompts, **options):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(**{"max_new_tokens": 8, "do_sample": True, "temperature": 1.0, "top_k": 20, **options})
    return ids, model.generate(input_ids=ids, attention_mask=mask, generation_config=config)


def test_fast_rollouts_answer_generate_and_put_it_back():
    policy = tiny_peft(stops=STOPS)
    copy = MergedCopy(policy, tiny_model(stops=STOPS))
    prompts = random_prompts(6)
    with fast_rollouts(policy, copy, TOKENIZER, seed=4, step=lambda: 0):
        ids, out = call_generate(policy, prompts)
        _, again = call_generate(policy, prompts)
    assert "generate" not in vars(policy)
    assert policy.generate.__func__ is type(policy).generate
    width = ids.shape[1]
    assert torch.equal(out[:, :width], ids)
    expected = sample(copy.model, TOKENIZER, prompts, max_new_tokens=8, temperature=1.0, top_k=20, seed=4 * 100_003 + 1)
    for row, s in zip(out[:, width:].tolist(), expected, strict=True):
        assert row[: len(s.token_ids)] == s.token_ids
        assert set(row[len(s.token_ids) :]) <= {TOKENIZER.pad_token_id}
    assert out.shape != again.shape or not torch.equal(out, again)  # each call draws anew


def test_draws_of_fast_rollouts_hang_on_the_step_and_its_turn():
    """Steps 0, 1, 1 and 2: a run that begins at step 1 draws what the first one drew there."""
    policy = tiny_peft(stops=STOPS)
    copy, prompts = MergedCopy(policy, tiny_model(stops=STOPS)), random_prompts(6)

    def drawn(steps: list[int]) -> list[list]:
        left = iter(steps)
        at = [0]
        with fast_rollouts(policy, copy, TOKENIZER, seed=4, step=lambda: at[0]):
            found = []
            for at[0] in left:
                found.append(call_generate(policy, prompts)[1].tolist())
        return found

    whole = drawn([0, 1, 1, 2])
    assert drawn([1, 1, 2]) == whole[1:]
    assert len({str(one) for one in whole}) == 4


def test_a_rollout_draws_the_same_whether_or_not_others_have_ended():
    """Four rollouts of one prompt and one of another; in the second turn two of the four have ended, in the third one
    more. What is left draws what it draws where all go on."""
    policy = tiny_peft()
    copy = MergedCopy(policy, tiny_model())

    def turns(ended: list[set]) -> list[dict[int, list[int]]]:
        prompts, alive, said = [[40, 41, 42]] * 4 + [[50, 51]], list(range(5)), []
        with fast_rollouts(policy, copy, TOKENIZER, seed=4, step=lambda: 0):
            for gone in ended:
                alive = [i for i in alive if i not in gone]
                asked = [prompts[i] for i in alive]
                out = call_generate(policy, asked, max_new_tokens=4)[1]
                wide = max(map(len, asked))
                said.append({i: row[wide:] for i, row in zip(alive, out.tolist(), strict=True)})
                prompts = [[*p, *said[-1].get(i, ()), 60, 61] for i, p in enumerate(prompts)]
        return said

    everybody, some = turns([set(), set(), set()]), turns([set(), {0, 2}, {4}])
    assert some[0] == everybody[0]
    assert some[1] == {i: everybody[1][i] for i in (1, 3, 4)}
    assert some[2] == {i: everybody[2][i] for i in (1, 3)}
    assert len({str(answer) for answer in everybody[1].values()}) == 5


def test_conversations_know_their_rows_by_what_was_said():
    """Rows 0 and 1 have one history, so they are taken in turn; a prompt of nobody gets a new key; then a new batch."""
    rows = _Conversations()
    assert rows.keys([[1], [1], [2]]) == [0, 1, 2]
    rows.said([0, 1, 2], [[1], [1], [2]], [[7], [7], [8]])
    second = [[1, 7, 9], [5], [1, 7, 6], [2, 8, 9]]
    assert rows.keys(second) == [0, 3, 1, 2]
    rows.said([0, 3, 1, 2], second, [[4]] * 4)
    assert rows.keys([[2, 8, 9, 4, 4], [5, 4, 4]]) == [2, 3]
    assert rows.keys([[1], [2]]) == [0, 1]


def conversation(model, turns: int, *, memory: Memory | None) -> list[list[int]]:
    """Three rows, each turn the last prompt, the answer, and four new tokens; the ids of every answer."""
    prompts, said = random_prompts(3, prefix=12), []
    for turn in range(turns):
        samples = sample(model, TOKENIZER, prompts, max_new_tokens=9, temperature=1.0, seed=turn, memory=memory)
        said += ids_of(samples)
        prompts = [p + s.token_ids + [90 - i] * 4 for i, (p, s) in enumerate(zip(prompts, samples, strict=True))]
    return said


def test_a_conversation_that_goes_on_is_read_from_where_it_stood():
    """The same answers as without memory; a turn reads four new tokens a row, and the last one that was said."""
    model = tiny_model(stops=STOPS)
    expected = conversation(model, 4, memory=None)
    seen = tokens_read(model)
    assert conversation(model, 4, memory=Memory()) == expected
    own = sum(len(prompt) - 12 for prompt in random_prompts(3, prefix=12))
    assert sum(n for n in seen if n > 3) == 12 + own + 3 * 3 * 5  # passes of 3 tokens or fewer are steps


def test_memory_takes_what_agrees_and_no_more():
    """The second prompt goes on with other words than were sampled: they are read anew, and nothing else is."""
    model, memory = tiny_model(), Memory()
    prompt = [*random_prompts(1)[0], 50]
    (first,) = sample(model, TOKENIZER, [prompt], max_new_tokens=6, memory=memory)
    other = [*prompt, *first.token_ids[:3], 98 - first.token_ids[3], 32, 33]
    (expected,) = sample(model, TOKENIZER, [other], max_new_tokens=6)
    seen = tokens_read(model)
    (again,) = sample(model, TOKENIZER, [other], max_new_tokens=6, memory=memory)
    assert seen[0] == 3 and again.token_ids == expected.token_ids


def test_the_same_prompt_again_is_no_continuation():
    model, memory = tiny_model(stops=STOPS), Memory()
    prompts = random_prompts(3, prefix=4)
    one = ids_of(sample(model, TOKENIZER, prompts, max_new_tokens=6, memory=memory))
    assert ids_of(sample(model, TOKENIZER, prompts, max_new_tokens=6, memory=memory)) == one


def test_fast_rollouts_remember_turns_until_the_adapter_changes():
    policy = tiny_peft()
    copy = MergedCopy(policy, tiny_model())
    seen = tokens_read(copy.model)
    with fast_rollouts(policy, copy, TOKENIZER, seed=4, step=lambda: 0):
        ids, out = call_generate(policy, [[40, 41, 42, 43]], do_sample=False)
        following = [*out[0].tolist(), 50, 51]
        seen.clear()
        call_generate(policy, [following], do_sample=False)
        assert seen[0] == 3  # what is new, and the last token of the turn before
        change_adapter(policy)  # a pass of the policy itself, and other weights
        seen.clear()
        call_generate(policy, [[*following, 52]], do_sample=False)
        assert seen[0] == len(following) + 1
        policy(input_ids=torch.tensor([following]))
        seen.clear()
        call_generate(policy, [[*following, 52, 53]], do_sample=False)
        assert seen[0] == len(following) + 2


def test_fast_rollouts_put_generate_back_after_an_error():
    policy = tiny_peft()
    copy = MergedCopy(policy, tiny_model())
    with pytest.raises(KeyError), fast_rollouts(policy, copy, TOKENIZER, seed=4, step=lambda: 0):
        raise KeyError("training failed")
    assert "generate" not in vars(policy)


def test_fast_rollouts_follow_the_adapter():
    policy = tiny_peft()
    copy = MergedCopy(policy, tiny_model())
    with fast_rollouts(policy, copy, TOKENIZER, seed=4, step=lambda: 0):
        for prompt in ([40, 41], [50, 51, 52]):
            change_adapter(policy)
            assert logit_change(policy, copy.model, prompt) > 0.01
            ids, out = call_generate(policy, [prompt], do_sample=False)
            assert logit_change(policy, copy.model, prompt) < 1e-4
            assert out[0, ids.shape[1]].item() == next_logits(policy, prompt)[-1].argmax().item()


def test_fast_rollouts_take_trls_way_of_saying_no_top_k():
    """TRL's top_k = 0 means all tokens; the prompt's padding is taken off before sampling."""
    policy = tiny_peft()
    copy = MergedCopy(policy, tiny_model())
    config = SimpleNamespace(max_new_tokens=3, do_sample=True, temperature=1.0, top_k=0, top_p=None)
    ids = torch.tensor([[0, 0, 40], [41, 42, 43]])
    with fast_rollouts(policy, copy, TOKENIZER, seed=0, step=lambda: 0):
        out = policy.generate(
            input_ids=ids, attention_mask=torch.tensor([[0, 0, 1], [1, 1, 1]]), generation_config=config
        )
    expected = sample(copy.model, TOKENIZER, [[40], [41, 42, 43]], max_new_tokens=3, temperature=1.0, top_k=100, seed=1)
    assert out[0, 3 : 3 + len(expected[0].token_ids)].tolist() == expected[0].token_ids
    assert out[1, 3 : 3 + len(expected[1].token_ids)].tolist() == expected[1].token_ids


def test_logit_change_by_hand():
    one, other = tiny_model(0), tiny_model(1)
    assert logit_change(one, one, [40, 41]) == 0.0
    by_hand = (next_logits(one, [40, 41])[-1] - next_logits(other, [40, 41])[-1]).abs().max().item()
    assert logit_change(one, other, [40, 41]) == pytest.approx(by_hand, abs=1e-5)
