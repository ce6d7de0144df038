"""What watches the trainers: stop rules, checkpoints that can be trusted, label masks, KL worked by hand."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import TinyTokenizer, next_logits, tiny_model, tiny_peft

from ftlib import gates, machine
from ftlib import train as ft
from ftlib.files import digest
from ftlib.records import NotFinite, SftRow


def state_at(step: int, *, last: int = 100) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=last, log_history=[])


# --- KL


class Fixed:
    """A model over three tokens that gives the same probabilities everywhere."""

    device = "cpu"

    def __init__(self, probs: list[float]):
        self.head = torch.nn.Linear(1, 3)
        self.head.bias.data = torch.tensor(probs).log()

    def get_output_embeddings(self):
        return self.head

    def __call__(self, input_ids, attention_mask):
        hidden = torch.zeros(*input_ids.shape, 1)
        return SimpleNamespace(logits=self.head(hidden) + 7.0)  # a shift changes nothing


def test_kl_by_hand():
    """Policy (.5, .25, .25), reference (.25, .5, .25): log ratios ln 2, -ln 2, 0.

    Tokens (0, 1): k1 = 0; k3 = ((1/2 - 1 + ln 2) + (2 - 1 - ln 2)) / 2 = 1/4.
    Tokens (0,): k1 = ln 2, k3 = ln 2 - 1/2. Tokens (2, 2, 0): k1 = ln 2 / 3, k3 = (ln 2 - 1/2) / 3.
    """
    policy, reference = Fixed([0.5, 0.25, 0.25]), Fixed([0.25, 0.5, 0.25])
    completions = [[0, 1], [0], [2, 2, 0]]
    k1, k3 = ft.kl_on_samples(policy, reference, [[2], [1, 1, 1], [0, 0]], completions, batch=2)
    ln2 = math.log(2)
    assert k1 == pytest.approx([0.0, ln2, ln2 / 3], abs=1e-6)
    assert k3 == pytest.approx([0.25, ln2 - 0.5, (ln2 - 0.5) / 3], abs=1e-6)


def test_kl_estimates_agree_with_the_exact_one():
    """Tokens in the policy's own shares: the mean of k1 is KL = .5 ln 2 - .25 ln 2 = .25 ln 2."""
    policy, reference = Fixed([0.5, 0.25, 0.25]), Fixed([0.25, 0.5, 0.25])
    k1, k3 = ft.kl_on_samples(policy, reference, [[0]], [[0, 0, 1, 2]])
    assert k1[0] == pytest.approx(0.25 * math.log(2), abs=1e-6)
    assert k3[0] == pytest.approx(0.25 * math.log(2), abs=1e-6)


def test_kl_of_a_model_with_itself_is_zero():
    model = tiny_model()
    k1, k3 = ft.kl_on_samples(model, model, [[40, 41]], [[42, 43]])
    assert k1.tolist() == k3.tolist() == [0.0]


def reference_trainer(seen, *, fail_at=None):
    """Three rows; the sum of an answer's ids stands in for its log-prob. `fail_at`: the batch that is killed."""
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    def compute_ref_log_probs(model, inputs):
        seen.append(tuple(inputs["input_ids"].shape))
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        return (inputs["input_ids"] * inputs["completion_mask"]).sum(1).float().chunk(2)

    rows = [{"prompt_ids": [5] * n, "chosen_ids": [n, 1], "rejected_ids": [n + 10, 1]} for n in (3, 1, 2)]
    return SimpleNamespace(
        train_dataset=Dataset.from_list(rows), data_collator=DataCollatorForPreference(pad_token_id=0), model=None,
        accelerator=SimpleNamespace(device=torch.device("cpu")), compute_ref_log_probs=compute_ref_log_probs,
        precompute_ref_logps=False,
    )  # fmt: skip


def logps_of(trainer):
    return [list(trainer.train_dataset[f"ref_{side}_logps"]) for side in ("chosen", "rejected")]


def test_the_reference_of_each_row_is_computed_once_and_lands_at_its_row():
    seen = []
    trainer = reference_trainer(seen)
    ft.keep_reference(trainer, batch=2)
    assert seen == [(4, 4), (2, 5)]  # the two short rows together: chosen and rejected each
    assert logps_of(trainer) == [[4.0, 2.0, 3.0], [14.0, 12.0, 13.0]]
    assert trainer.precompute_ref_logps is True


def test_a_killed_reference_goes_on_where_it_was(tmp_path):
    kept = tmp_path / "checkpoints" / "reference.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ft.keep_reference(reference_trainer([], fail_at=2), batch=2, kept=kept, of="a")
    with open(kept, "ab") as file:
        file.write(b'{"ids": ["0f"], "lo')  # the piece of a line that the kill left
    for expected in ([(2, 5)], []):  # the batch that was missing; then nothing is left to do
        trainer = reference_trainer(seen := [])
        ft.keep_reference(trainer, batch=2, kept=kept, of="a")
        assert seen == expected and logps_of(trainer) == [[4.0, 2.0, 3.0], [14.0, 12.0, 13.0]]


def test_another_reference_begins_anew_and_sets_of_the_same_rows_share_one(tmp_path):
    kept = tmp_path / "reference.jsonl"
    ft.keep_reference(reference_trainer([]), batch=2, kept=kept, of="a")
    ft.keep_reference(reference_trainer(seen := []), batch=2, kept=kept, of="b")
    assert len(seen) == 2
    part = reference_trainer(seen := [])
    part.train_dataset = part.train_dataset.select([2, 0])  # other places, the same rows
    ft.keep_reference(part, batch=2, kept=kept, of="b")
    assert seen == [] and logps_of(part) == [[3.0, 4.0], [13.0, 14.0]]
    more = reference_trainer(seen := [])
    turned = {**more.train_dataset[0], "chosen_ids": [13, 1], "rejected_ids": [3, 1]}
    more.train_dataset = more.train_dataset.add_item(turned)
    ft.keep_reference(more, batch=2, kept=kept, of="b")
    assert seen == [(2, 5)] and logps_of(more) == [[4.0, 2.0, 3.0, 14.0], [14.0, 12.0, 13.0, 4.0]]


def test_token_logprobs_do_not_depend_on_padding():
    model = tiny_model()
    rows = [([40, 41, 42], [50, 51]), ([60], [61, 62, 63, 64, 65]), ([70, 71], [72])]
    for (p, c), found in zip(rows, ft.token_logprobs(model, rows), strict=True):
        plain = next_logits(model, p + c).log_softmax(-1)
        by_hand = [plain[len(p) - 1 + i, token].item() for i, token in enumerate(c)]
        assert found.tolist() == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize("make", [tiny_model, tiny_peft])
def test_token_logprobs_take_the_positions_of_completions_through_the_head(make):
    """Eight of the 18 positions (three rows, padded to six) go through the head; the values are those of all logits,
    of a model with an adapter as well, and its head is left as it was."""
    model, rows = make(), [([40, 41, 42], [50, 51]), ([60], [61, 62, 63, 64, 65]), ([70, 71], [72])]
    head, seen = model.get_output_embeddings(), []
    watch = head.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    found = ft.token_logprobs(model, rows)
    assert seen == [(8, 100)]
    ids = torch.tensor([p + c + [0] * (6 - len(p + c)) for p, c in rows])
    mask = torch.tensor([[1] * len(p + c) + [0] * (6 - len(p + c)) for p, c in rows])
    whole = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    assert seen[1] == (3, 6, 100)
    watch.remove()
    for row, (p, c), values in zip(whole, rows, found, strict=True):
        by_hand = [row[len(p) - 1 + i, token].item() for i, token in enumerate(c)]
        assert values.tolist() == pytest.approx(by_hand, abs=1e-5)
    assert not head._forward_pre_hooks


def test_token_logprobs_leave_the_head_alone_after_an_error():
    model = tiny_model()
    with pytest.raises(IndexError):
        ft.token_logprobs(model, [([40], [1000])])  # no such token
    assert not model.get_output_embeddings()._forward_pre_hooks


# --- checkpoints


def checkpoint(folder, step: int, *, complete: bool = True) -> None:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "trainer_state.json").write_text("{}", encoding="utf-8")
    if complete:
        args = SimpleNamespace(output_dir=str(folder))
        ft.MarkCheckpoints().on_save(args, state_at(step), None)


def test_the_newest_complete_checkpoint_is_found(tmp_path):
    """By number, not by name: 100 is after 20. The half-written one is removed."""
    assert ft.last_complete_checkpoint(tmp_path / "c", fingerprint={"lr": 1}) is None
    for step in (20, 100):
        checkpoint(tmp_path / "c", step)
    checkpoint(tmp_path / "c", 120, complete=False)
    found = ft.last_complete_checkpoint(tmp_path / "c", fingerprint={"lr": 1})
    assert found == str(tmp_path / "c" / "checkpoint-100")
    assert sorted(f.name for f in (tmp_path / "c").glob("checkpoint-*")) == ["checkpoint-100", "checkpoint-20"]


def test_only_half_written_checkpoints_mean_a_new_start(tmp_path):
    ft.last_complete_checkpoint(tmp_path, fingerprint={})
    checkpoint(tmp_path, 5, complete=False)
    assert ft.last_complete_checkpoint(tmp_path, fingerprint={}) is None


@pytest.mark.parametrize("other", [{"lr": 2, "rows": ["a", "b"]}, {"lr": 1, "rows": ["b", "a"]}, {"lr": 1}])
def test_checkpoints_of_another_training_are_removed(tmp_path, other):
    mine = {"lr": 1, "rows": ("a", "b")}
    ft.last_complete_checkpoint(tmp_path, fingerprint=mine)
    checkpoint(tmp_path, 20)
    assert ft.last_complete_checkpoint(tmp_path, fingerprint=mine) is not None  # a tuple is a list in JSON
    assert ft.last_complete_checkpoint(tmp_path, fingerprint=other) is None
    assert not (tmp_path / "checkpoint-20").exists()
    assert json.loads((tmp_path / "fingerprint.json").read_text(encoding="utf-8")) == other


def test_mended_rows_under_the_same_ids_are_trained_anew(tmp_path):
    """As 02 and 04 make their fingerprint: by what the rows say, not by their ids."""
    row = {"id": "r1", "task": "summary", "channel": "chat", "difficulty": "easy", "input": "thread", "facts": []}
    of = lambda output: {"rows": digest([SftRow(**row, output=output)], "rows")}
    ft.last_complete_checkpoint(tmp_path, fingerprint=of("Wrong."))
    checkpoint(tmp_path, 20)
    assert ft.last_complete_checkpoint(tmp_path, fingerprint=of("Wrong.")) is not None
    assert ft.last_complete_checkpoint(tmp_path, fingerprint=of("Right.")) is None


def test_checkpoints_without_a_fingerprint_are_not_trusted(tmp_path):
    checkpoint(tmp_path, 20)
    assert ft.last_complete_checkpoint(tmp_path, fingerprint={}) is None


def test_a_folder_with_a_name_of_its_own_is_left_alone(tmp_path):
    ft.last_complete_checkpoint(tmp_path, fingerprint={})
    (tmp_path / "checkpoint-best").mkdir()
    checkpoint(tmp_path, 3)
    assert ft.last_complete_checkpoint(tmp_path, fingerprint={}).endswith("checkpoint-3")
    assert (tmp_path / "checkpoint-best").exists()


def test_a_save_that_wrote_nothing_is_not_marked(tmp_path):
    ft.MarkCheckpoints().on_save(SimpleNamespace(output_dir=str(tmp_path)), state_at(7), None)
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_holds_what_decides_the_training_and_no_paths(tmp_path):
    from trl import DPOConfig, GRPOConfig

    fixed = {"use_cpu": True, "bf16": False, "fp16": False, "report_to": "none"}
    one = DPOConfig(output_dir=str(tmp_path / "a"), logging_steps=3, **fixed)
    assert ft.fingerprint(one) == ft.fingerprint(DPOConfig(output_dir=str(tmp_path / "b"), logging_steps=5, **fixed))
    for change in ({"learning_rate": 0.5}, {"beta": 0.7}, {"seed": 3}, {"loss_weights": [0.5], "loss_type": ["ipo"]}):
        assert ft.fingerprint(DPOConfig(output_dir=str(tmp_path), **fixed, **change)) != ft.fingerprint(one)
    grpo = GRPOConfig(output_dir=str(tmp_path), **fixed)
    for change in ({"reward_weights": [1.0, 0.5]}, {"num_generations": 4}, {"temperature": 0.5}, {"use_vllm": True}):
        assert ft.fingerprint(GRPOConfig(output_dir=str(tmp_path), **fixed, **change)) != ft.fingerprint(grpo)


# --- the monitor


class Looks:
    """Plays a list of (score, kl), and counts what the monitor kept."""

    def __init__(self, tmp_path, looks, **options):
        self.looks = iter(looks)
        self.kept: list[int] = []
        self.monitor = ft.GenerationMonitor(
            self.measure,
            keep_best=lambda: self.kept.append(self.step),
            record=tmp_path / "monitor.json",
            **{"every": 10, "kl_cap": 1.0, "patience": 2, **options},
        )
        self.control = SimpleNamespace(should_training_stop=False)

    def measure(self, step):
        self.step = step
        score, kl, *low = next(self.looks)
        return {"score": np.float32(score), "kl": kl, **({"kl_low": low[0]} if low else {})}

    def train(self, *steps, last=100):
        """Steps until the monitor stops the training; returns the step at which it did."""
        for step in steps:
            self.monitor.on_step_end(None, state_at(step, last=last), self.control)
            if self.control.should_training_stop:
                return step
        return None


def test_the_monitor_looks_every_n_steps_and_at_the_end(tmp_path):
    looks = Looks(tmp_path, [(0.1, 0), (0.2, 0), (0.3, 0)])
    assert looks.train(*range(1, 26), last=25) is None
    assert [row["step"] for row in looks.monitor.rows] == [10, 20, 25]
    assert looks.kept == [10, 20, 25]
    assert looks.monitor.why_stopped == "all steps done"


def test_the_monitor_stops_when_the_kl_is_over_its_cap(tmp_path):
    """A better score bought with too much KL is not kept."""
    looks = Looks(tmp_path, [(0.5, 0.9), (0.9, 1.25)])
    assert looks.train(10, 20, 30) == 20
    assert looks.monitor.why_stopped == "KL 1.250 is over its cap of 1.0 nats a token"
    assert looks.kept == [10]
    assert looks.monitor.best["score"] == 0.5


def test_a_kl_that_is_over_its_cap_by_chance_is_not_kept_and_stops_nothing(tmp_path):
    """Cap 1: 1.25 (from 0.75) may be noise, so training goes on and 0.5 stays the best; 1.5 (from 1.25) is shown."""
    looks = Looks(tmp_path, [(0.5, 0.75, 0.5), (0.9, 1.25, 0.75), (0.75, 1.0, 0.75), (0.9, 1.5, 1.25)])
    assert looks.train(10, 20, 30, 40) == 40
    assert looks.kept == [10, 30]
    assert looks.monitor.why_stopped == "KL 1.500 is over its cap of 1.0 nats a token"


def test_a_lower_end_that_is_no_number_stops(tmp_path):
    looks = Looks(tmp_path, [(0.5, 1.25, float("nan"))])
    assert looks.train(10) == 10
    assert looks.kept == []


def test_kl_at_the_cap_goes_on(tmp_path):
    assert Looks(tmp_path, [(0.5, 1.0), (0.6, 0.2)]).train(10, 20) is None


def test_a_kl_that_is_no_number_stops(tmp_path):
    looks = Looks(tmp_path, [(0.5, float("nan"))])
    assert looks.train(10) == 10
    assert looks.kept == []


def test_samples_whose_numbers_are_none_stop_and_what_was_kept_stays(tmp_path):
    """As 04 measures: k3 of fresh samples with its interval, which refuses NaN; the looks before it stand."""
    looks = Looks(tmp_path, [(0.5, 0.25)])
    played = looks.measure
    k3_of = {10: [0.25, 0.25], 20: [0.25, float("nan")]}
    looks.monitor.measure = lambda step: {"kl": gates.mean_interval(k3_of[step], seed=1)[0], **played(step)}
    assert looks.train(10, 20, 30) == 20
    assert looks.kept == [10] and [row["step"] for row in looks.monitor.rows] == [10]
    assert looks.monitor.why_stopped.startswith("step 20: values: expected a list of one or more finite numbers")
    assert looks.monitor.why_stopped.endswith("the weights of step 10 are kept")


def test_weights_that_hold_nan_stop_before_anything_is_sampled(tmp_path):
    looks, model = Looks(tmp_path, [(0.5, 0.25)]), torch.nn.Linear(2, 1)
    step = lambda n: looks.monitor.on_step_end(None, state_at(n, last=100), looks.control, model=model)
    step(10)
    model.weight.data[0, 1] = float("inf")
    step(20)
    assert looks.control.should_training_stop and looks.kept == [10]
    said = "step 20: 1 of 2 trained tensors hold NaN or infinite values; the weights of step 10 are kept"
    assert looks.monitor.why_stopped == said


def test_without_one_finite_look_of_the_training_the_error_is_the_callers(tmp_path):
    """Step 0 is the model before training: there is nothing trained to keep."""
    looks, model = Looks(tmp_path, [(0.5, 0.0)]), torch.nn.Linear(2, 1)
    looks.monitor.look(0)
    model.bias.data.fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"step 10: 1 of 2 trained tensors .*lower the learning rate"):
        looks.monitor.on_step_end(None, state_at(10), looks.control, model=model)


def test_without_a_cap_the_kl_need_not_be_measured(tmp_path):
    """SFT has no reference to stay near: scores alone decide. 0.3 is the best look; two poorer ones end it."""
    scores, kept = iter([0.1, 0.3, 0.2, 0.2]), []
    monitor = ft.GenerationMonitor(
        lambda step: {"score": next(scores)}, every=1, patience=2, keep_best=lambda: kept.append(1),
        record=tmp_path / "m.json",
    )  # fmt: skip
    control = SimpleNamespace(should_training_stop=False)
    for step in (1, 2, 3, 4):
        monitor.on_step_end(None, state_at(step), control)
    assert monitor.best == {"step": 2, "score": 0.3} and len(kept) == 2
    assert control.should_training_stop and monitor.why_stopped == "no better score for 2 looks"


def test_the_monitor_stops_when_nothing_gets_better(tmp_path):
    """Patience 2: looks 20 (equal is not better) and 30 after the best at 10."""
    looks = Looks(tmp_path, [(0.5, 0), (0.5, 0), (0.4, 0), (0.9, 0)])
    assert looks.train(10, 20, 30, 40) == 30
    assert looks.monitor.why_stopped == "no better score for 2 looks"
    assert looks.kept == [10]


def test_a_better_score_gives_new_patience(tmp_path):
    looks = Looks(tmp_path, [(0.5, 0), (0.4, 0), (0.6, 0), (0.5, 0), (0.5, 0)])
    assert looks.train(10, 20, 30, 40, 50) == 50
    assert looks.kept == [10, 30]


def test_a_later_look_within_the_tolerance_is_kept_and_gives_no_new_patience(tmp_path):
    """0.59 and 0.585 are within 0.02 of 0.60, 0.575 is not: held against the highest, looks cannot creep down."""
    looks = Looks(tmp_path, [(0.60, 0), (0.59, 0), (0.575, 0), (0.585, 0)], tolerance=0.02, patience=3)
    assert looks.train(10, 20, 30, 40, 50) == 40
    assert looks.kept == [10, 20, 40]
    assert (looks.monitor.best["step"], looks.monitor.highest["step"]) == (40, 10)
    again = Looks(tmp_path, [(0.575, 0)], tolerance=0.02, patience=9)
    again.train(50)
    assert again.kept == []  # the record holds the highest score too


@pytest.mark.parametrize(("told", "last", "stopped"), [(False, 100, None), (True, 100, 20), (True, 20, None)])
def test_the_monitor_stops_where_the_score_is_steady_if_told_to(told, last, stopped, tmp_path):
    """By default that is shown and stops nothing; at the last step there is nothing left to stop."""
    looks, is_steady = Looks(tmp_path, [], stop_when_steady=told), {10: 0.0, 20: 1.0, 30: 1.0}
    looks.monitor.measure = lambda step: {"score": step, "kl": 0, "moved": 0.01, "steady": is_steady[step]}
    looks.monitor.keep_best = lambda: None
    assert looks.train(*(step for step in is_steady if step <= last), last=last) == stopped
    said = "the win-rate is steady: it moved by +0.010 since the look before"
    assert looks.monitor.why_stopped == (said if stopped else "all steps done")


def test_what_happens_over_the_cap_may_be_anothers(tmp_path):
    looks = Looks(tmp_path, [(0.5, 0.9), (0.9, 1.25, 1.1), (0.4, 0.5)], stop_over_cap=False, patience=9)
    assert looks.train(10, 20, 30) is None
    assert looks.kept == [10] and looks.monitor.why_stopped == "all steps done"


def test_a_resumed_monitor_goes_on_from_its_record(tmp_path):
    Looks(tmp_path, [(0.5, 0), (0.4, 0)]).train(10, 20)
    again = Looks(tmp_path, [(0.45, 0)])
    assert again.train(30) == 30  # the second look in a row without a better score
    assert again.kept == []
    assert [row["step"] for row in again.monitor.rows] == [10, 20, 30]


def test_a_monitor_resumed_before_its_best_look(tmp_path):
    """Killed after the look at 20, the last checkpoint at 10 or none at all: the look at 20 comes again."""
    Looks(tmp_path, [(0.3, 0), (0.8, 0)]).train(10, 20)
    again = Looks(tmp_path, [(0.2, 0), (0.3, 0), (0.8, 0), (0.7, 0), (0.6, 0)])
    again.monitor.look(0)
    assert again.train(10, 20, 30, 40) == 40
    assert again.kept == []  # the best adapter is on disk already
    assert [row["step"] for row in again.monitor.rows] == [0, 10, 20, 30, 40]
    assert again.monitor.best["step"] == 20


# --- the mean of the later steps


class Steps:
    """One weight that takes the given value at each step, and an average that watches it."""

    def __init__(self, folder, start, begun=0):
        self.args = SimpleNamespace(output_dir=str(folder))
        self.model = torch.nn.Linear(1, 1)
        self.model.bias.requires_grad_(False)
        self.average = ft.TailAverage(start)
        self.average.on_train_begin(self.args, state_at(begun), None, model=self.model)

    def go(self, first, *values):
        for step, value in enumerate(values, first):
            torch.nn.init.constant_(self.model.weight, value)
            self.average.on_step_end(self.args, state_at(step), None)
        return self

    def weight(self):
        return self.model.weight.item()


def test_the_mean_counts_from_its_first_step_and_training_keeps_its_own_weights(tmp_path):
    """Steps 3 to 5 count: (2 + 4 + 9) / 3 = 5."""
    steps = Steps(tmp_path, start=3).go(1, 100.0, 50.0, 2.0, 4.0, 9.0)
    with steps.average.in_place():
        assert steps.weight() == pytest.approx(5.0)
    assert steps.weight() == 9.0
    seen = steps.average.in_place()(steps.weight)
    assert [seen(), steps.weight(), seen()] == pytest.approx([5.0, 9.0, 5.0])


def test_before_its_first_step_the_mean_is_the_model_itself(tmp_path):
    steps = Steps(tmp_path, start=3).go(1, 100.0, 50.0)
    with steps.average.in_place():
        assert steps.weight() == 50.0
    with ft.TailAverage(1).in_place():  # a look before training has begun
        pass


def test_own_weights_come_back_after_an_error_too(tmp_path):
    steps = Steps(tmp_path, start=1).go(1, 1.0, 3.0)
    with pytest.raises(RuntimeError), steps.average.in_place():
        assert steps.weight() == 2.0
        raise RuntimeError
    assert steps.weight() == 3.0


def test_a_resumed_training_has_the_mean_that_it_would_have_had(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    whole = Steps(tmp_path, start=1).go(1, 1.0, 3.0)
    whole.average.on_save(whole.args, state_at(2), None)
    whole.go(3, 8.0)
    again = Steps(tmp_path, start=1, begun=2).go(3, 8.0)
    for steps in (whole, again):
        with steps.average.in_place():
            assert steps.weight() == pytest.approx(4.0)


def test_a_checkpoint_before_the_first_step_holds_no_mean(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    steps = Steps(tmp_path, start=3).go(1, 1.0, 3.0)
    steps.average.on_save(steps.args, state_at(2), None)
    assert list((tmp_path / "checkpoint-2").iterdir()) == []
    assert Steps(tmp_path, start=3, begun=2).average.count == 0


# --- rows and masks


TOKENIZER = TinyTokenizer()


def test_good_labels_pass():
    ft.check_labels(TOKENIZER, [{"labels": [-100, 44, 1]}, {"labels": [-100, -100, 1]}])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-100, -100], "training row 1: no token carries loss; is the answer empty, or cut off by max_length"),
        ([40, 41, 1], "training row 1: every token carries loss, the prompt too; use prompt/completion rows"),
        ([-100, 40, 41], "training row 1: the stop token '<end>' carries no loss, so the model would never learn to"),
    ],
)
def test_bad_labels_name_the_row_and_the_fault(labels, message):
    with pytest.raises(ValueError, match=message):
        ft.check_labels(TOKENIZER, [{"labels": [-100, 44, 1]}, {"labels": labels}])


def test_mask_view_shows_which_tokens_carry_loss():
    row = {"input_ids": TOKENIZER.encode("ab") + [1], "labels": [-100, *TOKENIZER.encode("b"), 1]}
    assert ft.mask_view(TOKENIZER, row) == [
        {"token": "a", "loss": False},
        {"token": "b", "loss": True},
        {"token": "<end>", "loss": True},
    ]
    assert [r["token"] for r in ft.mask_view(TOKENIZER, row, max_tokens=1)] == ["<end>"]


def test_mask_around_shows_where_the_loss_begins_and_how_it_ends():
    """12 letters of prompt, 9 of answer and the stop token: 10 + 3 are shown, 2 skipped, the last 5 shown."""
    row = {"input_ids": TOKENIZER.encode("abcdefghijklmnopqrstu") + [1]}
    row["labels"] = [-100] * 12 + row["input_ids"][12:]
    found = ft.mask_around(TOKENIZER, row)
    assert "".join(line["token"] for line in found) == "cdefghijklmno… (2 tokens)rstu<end>"
    assert [line["loss"] for line in found] == [False] * 10 + [True] * 9
    none = {"input_ids": row["input_ids"], "labels": [-100] * 22}
    assert not any(line["loss"] for line in ft.mask_around(TOKENIZER, none))


def test_trainable_parameters_by_hand():
    """r = 4: 4 (in + out) weights a module; two layers of q, o (32, 32), k, v (32, 16), gate, up, down (32, 64)."""
    model = tiny_peft()
    trained, every = ft.trainable_parameters(model)
    assert trained == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96)
    assert every == trained + sum(p.numel() for p in tiny_model().parameters())


# --- what a person sees


def test_progress_records_the_loss_and_writes_to_stderr(capsys):
    progress = ft.Progress("SFT")
    progress.on_train_begin(None, state_at(0, last=4), None)
    progress.on_step_end(None, state_at(2, last=4), None)
    progress.on_log(None, state_at(2, last=4), None, logs={"loss": "1.25", "learning_rate": 0.1})
    progress.on_log(None, state_at(4, last=4), None, logs={"loss": 0.5})
    progress.on_log(None, state_at(4, last=4), None, logs={"train_runtime": 3})
    progress.on_train_end(None, state_at(4, last=4), None)
    assert progress.series("loss") == ([2, 4], [1.25, 0.5])
    assert progress.series("reward") == ([], [])
    out, err = capsys.readouterr()
    assert out == "" and "SFT" in err


def test_progress_of_a_resumed_training_keeps_the_earlier_loss(capsys):
    progress = ft.Progress("SFT")
    state = state_at(6, last=8)
    state.log_history = [{"loss": 2.0, "step": 3}]
    progress.on_train_begin(None, state, None)
    assert progress.bar.n == 6
    progress.on_log(None, state_at(7), None, logs={"loss": 1.0})
    progress.on_train_end(None, state, None)
    assert progress.series("loss") == ([3, 7], [2.0, 1.0])
    assert state.log_history == [{"loss": 2.0, "step": 3}]


def test_the_live_chart_grows():
    chart = ft.LiveChart(["loss", "kl"], "Loss")
    chart.on_log(None, state_at(2), None, logs={"loss": 1.5})
    chart.on_log(None, state_at(4), None, logs={"loss": 1.0, "kl": 0.1})
    chart.on_log(None, state_at(5), None)
    loss, kl = chart.figure.data
    assert (list(loss.x), list(loss.y)) == ([2, 4], [1.5, 1.0])
    assert (list(kl.x), list(kl.y)) == ([4], [0.1])


def test_stopwatch_laps(monkeypatch):
    clock = iter([10.0, 12.5, 13.04])
    monkeypatch.setattr(ft.time, "perf_counter", lambda: next(clock))
    watch = ft.Stopwatch()
    assert watch.lap("load") == 2.5
    watch.lap("train")
    assert watch.rows == [{"stage": "load", "seconds": 2.5}, {"stage": "train", "seconds": 0.5}]


def test_quiet_takes_the_printer_away_and_nothing_else():
    from transformers.trainer_callback import PrinterCallback

    removed = []
    ft.quiet(SimpleNamespace(remove_callback=removed.append))
    assert removed == [PrinterCallback]


def test_steady_heap(monkeypatch):
    calls = []
    library = SimpleNamespace(mallopt=lambda key, value: calls.append((key, value)) or 1)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: library)
    assert ft.steady_heap() is True
    assert calls == [(-3, 33554432), (-1, 2147483647)]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: SimpleNamespace())  # musl: no mallopt
    assert ft.steady_heap() is False
    monkeypatch.setattr(sys, "platform", "win32")
    assert ft.steady_heap() is False
    assert len(calls) == 2


def test_training_ends_after_the_step_in_which_it_is_told_to():
    told = iter([False, True])
    stop = ft.StopWhen(lambda: next(told))
    control = SimpleNamespace(should_training_stop=False)
    stop.on_step_end(None, None, control)
    assert not control.should_training_stop
    stop.on_step_end(None, None, control)
    assert control.should_training_stop
