"""Sampling on a GPU, where steps are recorded: the texts of a plain pass over each row. Skipped where there is none."""

import numpy as np
import pytest
import torch
from tiny import STOPS, TinyTokenizer, tiny_model

from ftlib import generate, ragged

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_model(stops=STOPS).eval().to("cuda")


def prompts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(2, 100, n).tolist() for n in lengths]


@torch.no_grad()
def greedy(model, ids: list[int], n: int) -> list[int]:
    """Token by token, each time by a pass over the whole row."""
    new: list[int] = []
    while len(new) < n and not set(new[-1:]) & set(STOPS):
        new.append(
            int(model(input_ids=torch.tensor([ids + new], device="cuda"), use_cache=False).logits[0, -1].argmax())
        )
    return new


def test_greedy_texts_are_those_of_each_row_alone(model):
    """Sixty rows of 1 to 60 tokens: a shared start, rows that stop early (groups made smaller), equal prompts."""
    start, own = prompts(9)[0], prompts(*range(1, 61))
    rows = [start + ids for ids in own] + [start + own[3]] * 2
    got = generate.sample(model, TinyTokenizer(), rows, max_new_tokens=24)
    assert [sample.token_ids for sample in got] == [greedy(model, ids, 24) for ids in rows]


def test_drawn_texts_hang_on_seed_and_row_alone(model):
    rows = prompts(*range(5, 25))
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_k": 20, "seed": 3}
    whole = generate.sample(model, TinyTokenizer(), rows, **options)
    by_four = generate.sample(model, TinyTokenizer(), rows, batch_size=4, **options)
    assert [sample.token_ids for sample in whole] == [sample.token_ids for sample in by_four]
    assert len({tuple(sample.token_ids) for sample in whole}) > 10


@torch.inference_mode()
def test_a_recorded_step_gives_the_logits_of_a_plain_one(model):
    """Six steps over two pools, the later ones recorded; a pool that loses a row is recorded anew."""
    rows, follow = prompts(3, 8, 5), prompts(*[3] * 6)

    def run(feed):
        pools = [ragged.Pool(None, 2, 20), ragged.Pool(None, 1, 20)]
        ragged.read(model, [(pools[0], 0, rows[0]), (pools[0], 1, rows[1]), (pools[1], 0, rows[2])])
        found = []
        for n, ids in enumerate(follow):
            if n == 3:
                pools[0].select([1])
            found.append(feed(pools, ids[: sum(pool.rows for pool in pools)]).clone())
        return found

    with ragged.attention(model):
        steps = ragged.Steps(model)
        plain, recorded = run(lambda pools, ids: ragged.step(model, pools, ids)), run(steps)
    assert steps._recorded is not None
    for one, other in zip(recorded, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
