"""Callbacks and helpers for TRL trainers: progress, live charts, resume, KL on fresh samples, win-rate stop.

TRL's trainers are used as they are. What is here watches them or prepares the process for them.

Left out on purpose: a trainer of our own, and a config framework; the TRL config is read in the notebook.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from ftlib.files import append_line, digest, mend_tail, whole_lines, write_atomic
from ftlib.machine import glibc_function, trim_heap
from ftlib.progress import bar
from ftlib.records import NotFinite

TRIM_EVERY = 5  # steps: batches of ever new shapes leave holes in a heap that is never handed back


def steady_heap() -> bool:
    """Keep freed memory in the process instead of handing it back to the system after each tensor (Linux, glibc).

    Training allocates and frees the same large blocks at every layer. By default glibc maps each block anew, and the
    kernel clears every page: up to half of the time of a CPU step. Returns whether it could be set.
    """
    mallopt = glibc_function("mallopt")
    if mallopt is None:
        return False
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 32 * 2**20  # 32 MB is the most that glibc accepts
    return bool(mallopt(m_mmap_threshold, largest) and mallopt(m_trim_threshold, 2**31 - 1))


def trainable_parameters(model) -> tuple[int, int]:
    """(trainable, all) parameter counts."""
    every = sum(p.numel() for p in model.parameters())
    return sum(p.numel() for p in model.parameters() if p.requires_grad), every


def mask_view(tokenizer, row: dict, *, max_tokens: int = 60) -> list[dict]:
    """Tokens of one training row and whether each carries loss, for a table: shows a wrong mask at a glance.

    Args:
        row: `input_ids` and `labels` (-100: no loss) of a tokenised training set.
    """
    pairs = list(zip(row["input_ids"], row["labels"], strict=True))[-max_tokens:]
    return [{"token": repr(tokenizer.decode([i]))[1:-1], "loss": label != -100} for i, label in pairs]


def mask_around(tokenizer, row: dict, *, before: int = 10, after: int = 3, last: int = 5) -> list[dict]:
    """`mask_view` of the places that matter: `before` tokens up to the first with loss, `after` from it on, the `last`.

    What lies between is one line, "… (n tokens)", with loss where all of these carry it.
    """
    lines = mask_view(tokenizer, row, max_tokens=len(row["labels"]))
    begins = next((place for place, line in enumerate(lines) if line["loss"]), len(lines))
    head = lines[max(0, begins - before) : begins + after]
    rest = lines[begins + after :]
    between, tail = rest[: max(0, len(rest) - last)], rest[max(0, len(rest) - last) :]
    gap = [{"token": f"… ({len(between)} tokens)", "loss": all(line["loss"] for line in between)}] if between else []
    return [*head, *gap, *tail]


def check_labels(tokenizer, rows: list[dict]) -> None:
    """Every row must carry loss on some tokens, not on all, and on its last stop token.

    Raises:
        ValueError: names the first row at fault and what is wrong with it.
    """
    for n, row in enumerate(rows):
        labels = list(row["labels"])
        carried = [label for label in labels if label != -100]
        if not carried:
            raise ValueError(f"training row {n}: no token carries loss; is the answer empty, or cut off by max_length?")
        if len(carried) == len(labels):
            raise ValueError(f"training row {n}: every token carries loss, the prompt too; use prompt/completion rows")
        if tokenizer.eos_token_id not in carried:
            raise ValueError(
                f"training row {n}: the stop token {tokenizer.eos_token!r} carries no loss, so the model would never "
                "learn to stop; is the row cut off by max_length?"
            )


class Progress(TrainerCallback):
    """A bar on stderr: steps, loss, time left; and the record of the loss for the figure."""

    def __init__(self, label: str):
        self.label = label
        self.rows: list[dict] = []
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.rows = [dict(row) for row in state.log_history]
        self.bar = bar(total=state.max_steps, initial=state.global_step, desc=self.label, unit="step", mininterval=2)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step % TRIM_EVERY == 0:
            trim_heap()

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append({**(logs or {}), "step": state.global_step})
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one logged number."""
        rows = [row for row in self.rows if key in row]
        return [row["step"] for row in rows], [float(row[key]) for row in rows]


class LiveChart(TrainerCallback):
    """A plotly FigureWidget that grows while training runs; only for a notebook that a person looks at."""

    def __init__(self, keys: list[str], title: str):
        import plotly.graph_objects as go

        self.keys = keys
        self.figure = go.FigureWidget(layout={"title": title, "xaxis_title": "step", "height": 320})
        for key in keys:
            self.figure.add_scatter(name=key, mode="lines+markers")

    def on_log(self, args, state, control, logs=None, **kwargs):
        for trace, key in zip(self.figure.data, self.keys, strict=True):
            if logs and key in logs:
                trace.x = [*(trace.x or ()), state.global_step]
                trace.y = [*(trace.y or ()), float(logs[key])]


class MarkCheckpoints(TrainerCallback):
    """Writes a COMPLETE marker into each checkpoint when all of it is on disk."""

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir():
            os.sync() if hasattr(os, "sync") else None
            (folder / "COMPLETE").write_text(str(state.global_step), encoding="utf-8")


def last_complete_checkpoint(output_dir: Path, *, fingerprint: dict) -> str | None:
    """The newest checkpoint that was written to its end, for `resume_from_checkpoint`; half-written ones are removed.

    Args:
        fingerprint: what the training depends on (rows' hash, seed, learning rate, …). Checkpoints of another
            fingerprint are removed: they belong to another training.
    """
    output_dir = Path(output_dir)
    mark = output_dir / "fingerprint.json"
    same = mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == json.loads(json.dumps(fingerprint))
    if not same and output_dir.exists():
        shutil.rmtree(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    if not same:
        write_atomic(mark, json.dumps(fingerprint))
    numbered = [f for f in output_dir.glob("checkpoint-*") if f.name.split("-", 1)[1].isdigit()]
    found = sorted(numbered, key=lambda f: int(f.name.split("-")[1]))
    for folder in [f for f in found if not (f / "COMPLETE").exists()]:
        shutil.rmtree(folder)
    complete = [f for f in found if (f / "COMPLETE").exists()]
    return str(complete[-1]) if complete else None


def keep_reference(trainer, *, batch: int = 32, kept: Path | None = None, of: str = "") -> None:
    """Compute the reference's log-probs of each row of a DPOTrainer once, instead of in every step.

    What TRL's `precompute_ref_log_probs` does, for rows that were changed after the trainer was made. Call it after
    the last change of a row and before rows are repeated; adds the columns `ref_chosen_logps`, `ref_rejected_logps`.

    Args:
        kept: a file that takes each batch as it comes, so that a killed notebook goes on from there, and so that
            several trainings on the same rows share one. What it holds of another `of` is thrown away.
        of: names the reference, e.g. the hash of its weights.
    """
    rows = trainer.train_dataset
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    by_length = sorted(range(len(rows)), key=[len(ids) for ids in rows["prompt_ids"]].__getitem__)
    found = {"ref_chosen_logps": [0.0] * len(rows), "ref_rejected_logps": [0.0] * len(rows)}
    id_of = lambda row: digest([row[name] for name in columns], "row")[:16]
    ids = [id_of(row) for row in rows] if kept else []  # by what a row holds, not by its place: sets overlap
    lines = _kept_batches(Path(kept), of) if kept else []
    known = {id: both for line in lines for id, *both in zip(line["ids"], *line["logps"], strict=True)}
    done = {n for n, id in enumerate(ids) if id in known}
    for n in done:
        for name, value in zip(found, known[ids[n]], strict=True):
            found[name][n] = value
    rest = [n for n in by_length if n not in done]
    with bar(total=len(rows), initial=len(done), desc="reference", unit="pair", mininterval=2) as shown:
        for start in range(0, len(rest), batch):
            part = rest[start : start + batch]
            inputs = trainer.data_collator([rows[n] for n in part])
            inputs = {name: value.to(trainer.accelerator.device) for name, value in inputs.items()}
            both = [values.tolist() for values in trainer.compute_ref_log_probs(trainer.model, inputs)]
            for name, values in zip(found, both, strict=True):
                for n, value in zip(part, values, strict=True):
                    found[name][n] = value
            if kept:
                append_line(Path(kept), json.dumps({"ids": [ids[n] for n in part], "logps": both}))
            shown.update(len(part))
    for name, values in found.items():
        rows = rows.add_column(name, values)
    trainer.train_dataset, trainer.precompute_ref_logps = rows, True


def _kept_batches(path: Path, of: str) -> list[dict]:
    """The whole lines of a file that begins with this reference; a file of another one is begun anew."""
    if path.exists():
        mend_tail(path)
        first, *lines = [json.loads(line) for line in whole_lines(path)[0]] or [{}]
        if first.get("of") == of:
            return lines
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"of": of}) + "\n")
    return []


def kl_on_samples(policy, reference, prompts: list[list[int]], completions: list[list[int]], *, batch: int = 16):
    """KL(policy || reference) per token on texts drawn from the policy (k1 and k3, Schulman 2020, "Approximating KL").

    Args:
        policy, reference: causal LMs; the completions must be sampled from `policy` at temperature 1.
        prompts, completions: token ids, one list a row.

    Returns:
        (k1, k3): per-row means over the completion's tokens, numpy arrays of shape (rows,), in nats a token.
    """
    import torch

    k1, k3 = [], []
    rows = list(zip(prompts, completions, strict=True))
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            difference = [p - r for p, r in zip(*(token_logprobs(m, part) for m in (policy, reference)), strict=True)]
            for d in difference:  # log ratio of each token, policy minus reference
                k1.append(float(d.mean()))
                k3.append(float((torch.exp(-d) - 1 + d).mean()))
    return np.array(k1), np.array(k3)


def token_logprobs(model, rows: list[tuple[list[int], list[int]]]):
    """Log-probs of completion tokens, one 1-D tensor a row; right-padded, one forward pass.

    Only the positions that predict a completion's token (N in all) go through the head: with a vocabulary of 49,152 the
    logits of all positions are most of the memory.
    """
    import torch

    width = max(len(p) + len(c) for p, c in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for i, (p, c) in enumerate(rows):
        ids[i, : len(p) + len(c)] = torch.tensor(p + c)
        mask[i, : len(p) + len(c)] = 1
        wanted[i, len(p) - 1 : len(p) + len(c) - 1] = True
    ids, mask, wanted = (x.to(model.device) for x in (ids, mask, wanted))
    # Whatever the model does to its logits afterwards (a scale, a soft cap), it does to these.
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0][wanted], *given[1:]))
    try:
        logits = model(input_ids=ids, attention_mask=mask).logits  # (N, V), row after row
    finally:
        hook.remove()
    out = []
    for part, (_, c) in zip(logits.split([len(c) for _, c in rows]), rows, strict=True):
        part = part.float()  # (C, V)
        picked = part.gather(1, torch.tensor(c, device=part.device)[:, None])[:, 0]
        out.append(picked - part.logsumexp(-1))
    return out


def check_weights(model) -> None:
    """See that a training has not broken its weights: one NaN in a gradient is in all of them a step later.

    Raises:
        NotFinite: says how many of the trained tensors hold NaN or infinite values.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    broken = sum(not bool(weight.isfinite().all()) for weight in trained)
    if broken:
        raise NotFinite(f"{broken} of {len(trained)} trained tensors hold NaN or infinite values")


class GenerationMonitor(TrainerCallback):
    """Every `every` steps: sample with the policy, measure, keep the best adapter, and stop when told to.

    The score is measured on few items, and while the learning rate falls the later weights are the steadier ones. So
    `tolerance` lets a later look take the best one's place when it is no worse than that.

    Where the weights hold NaN, or `measure` meets numbers that are none, training ends: what was kept before stays, and
    `why_stopped` says so. Where no look of this training has been finite, there is nothing to go on with, and the error
    goes to the caller.

    Args:
        measure: called with the step; returns numbers by name, among them "score" (larger is better), and "kl" where
            there is a reference to stay near, with "kl_low", the lower end of its interval, where it has one.
        every: steps between two looks.
        kl_cap: nats a token; a look whose "kl" is above it is never kept. Training stops where "kl_low" is above it
            too: few samples put the mean of a good policy above the cap now and then, and the rate still falls. Without
            a "kl_low" the mean decides; without a cap, "kl" need not be measured.
        patience: looks without a better score before training stops.
        keep_best: called when a look becomes the best one, to save the adapter.
        record: a JSON file that holds the looks so far; a resumed training goes on from it.
        tolerance: how far below the highest score a later look may lie and still become the best one; about the
            standard error of the score. 0: only a higher score does.
        stop_when_steady: end training at a look whose "steady" is 1 (`looks.Steady`); without it, that is shown only.
        stop_over_cap: False: a look that is shown over the cap is not kept, and what happens else is another's
            (`kl_guard.KlGuard`).
    """

    def __init__(
        self,
        measure: Callable[[int], dict],
        *,
        every: int,
        patience: int,
        keep_best: Callable[[], None],
        record: Path,
        kl_cap: float | None = None,
        tolerance: float = 0.0,
        stop_when_steady: bool = False,
        stop_over_cap: bool = True,
    ):
        self.stop_when_steady, self.stop_over_cap = stop_when_steady, stop_over_cap
        self.measure, self.every, self.kl_cap, self.patience = measure, every, kl_cap, patience
        self.tolerance = tolerance
        self.keep_best, self.record = keep_best, Path(record)
        known = json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else {}
        self.rows: list[dict] = known.get("rows", [])
        self.best: dict | None = known.get("best")
        self.highest: dict | None = known.get("highest", self.best)
        self.why_stopped = "all steps done"

    def look(self, step: int) -> dict:
        """Measure now; remember the best."""
        row = {"step": step, **{name: float(value) for name, value in self.measure(step).items()}}
        self.rows = [old for old in self.rows if old["step"] < step] + [row]
        top = self.highest
        if self._near(row) and (top is None or row["score"] > top["score"] - self.tolerance):
            self.best = row
            self.highest = row if top is None or row["score"] > top["score"] else top
            self.keep_best()
        write_atomic(self.record, json.dumps({"rows": self.rows, "best": self.best, "highest": self.highest}))
        return row

    @property
    def since_best(self) -> int:
        """Looks after the one with the highest score; counted by steps, because after a kill that look may lie ahead
        of the checkpoint that training goes on from."""
        return sum(row["step"] > self.highest["step"] for row in self.rows) if self.highest else len(self.rows)

    def _near(self, row: dict) -> bool:
        return self.kl_cap is None or row["kl"] <= self.kl_cap  # NaN is not

    def _shown_over(self, row: dict) -> bool:
        return not self._near(row) and not row.get("kl_low", math.inf) <= self.kl_cap  # NaN counts as over

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        try:
            if model is not None:
                check_weights(model)
            row = self.look(state.global_step)
        except NotFinite as error:
            found = f"step {state.global_step}: {error}"
            if not any(row["step"] > 0 for row in self.rows):
                raise NotFinite(
                    f"{found}; no look before it to keep: lower the learning rate, or train in fp32"
                ) from None
            self.why_stopped = f"{found}; the weights of step {self.best['step'] if self.best else 0} are kept"
            control.should_training_stop = True
            return
        if self._shown_over(row) and self.stop_over_cap:
            self.why_stopped = f"KL {row['kl']:.3f} is over its cap of {self.kl_cap} nats a token"
            control.should_training_stop = True
        elif self.since_best >= self.patience and state.global_step < state.max_steps:
            self.why_stopped = f"no better score for {self.patience} looks"
            control.should_training_stop = True
        elif self.stop_when_steady and row.get("steady") and state.global_step < state.max_steps:
            self.why_stopped = f"the win-rate is steady: it moved by {row['moved']:+.3f} since the look before"
            control.should_training_stop = True


class TailAverage(TrainerCallback):
    """The mean of the trained weights over the later steps of one training.

    Single steps wander around what they are drawn to, most of all where batches pull in opposite ways; their mean
    wanders less (Polyak and Juditsky 1992; for networks Izmailov et al. 2018, arXiv 1803.05407, section 3). Training
    itself goes on from its own weights. The mean is saved into each checkpoint, so a resumed training has the same.
    Give it to the trainer before `MarkCheckpoints`.

    Args:
        start: the first step whose weights count.
    """

    FILE = "tail_average.safetensors"

    def __init__(self, start: int):
        self.start, self.count = start, 0
        self._weights: list = []
        self._mean: list = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.count, self._mean = 0, []
        if state.global_step >= self.start:
            self._load(Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step < self.start:
            return
        self.count += 1
        if not self._mean:
            self._mean = [weight.detach().clone() for weight in self._weights]
        for mean, weight in zip(self._mean, self._weights, strict=True):
            mean.lerp_(weight.detach(), 1 / self.count)

    def restart(self) -> None:
        """Forget the steps so far: the weights they led to were thrown away."""
        self.count, self._mean = 0, []

    def on_save(self, args, state, control, **kwargs):
        import torch
        from safetensors.torch import save_file

        if self.count or state.global_step >= self.start:  # 0 at the very step at which it was begun anew
            tensors = {"count": torch.tensor(self.count), **{str(n): mean for n, mean in enumerate(self._mean)}}
            save_file(tensors, Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE)

    def _load(self, path: Path) -> None:
        from safetensors.torch import load_file

        kept = load_file(path)
        self.count = int(kept.pop("count"))
        self._mean = [kept[str(n)].to(weight.device) for n, weight in enumerate(self._weights)] if self.count else []

    @contextmanager
    def in_place(self):
        """Inside, the model has the mean as its weights; before `start` it has its own. Afterwards they are back.

        For `with`, or as a decorator of what is to see the mean.
        """
        own = [weight.detach().clone() for weight in self._weights]
        self._put(self._mean or own)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, values: list) -> None:
        import torch

        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)


class StopWhen(TrainerCallback):
    """Ends training after the step in which `told()` came true; what to do then is the caller's."""

    def __init__(self, told: Callable[[], bool]):
        self.told = told

    def on_step_end(self, args, state, control, **kwargs):
        if self.told():
            control.should_training_stop = True


class Stopwatch:
    """Seconds of the stages of a notebook, for its closing table."""

    def __init__(self):
        self.rows: list[dict] = []
        self._last = time.perf_counter()

    def lap(self, stage: str) -> float:
        """Close the stage that ran since the last lap."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.rows.append({"stage": stage, "seconds": round(seconds, 1)})
        return seconds


def fingerprint(config) -> dict:
    """What of a TRL config decides the training's course; paths and logging left out."""
    kept = (
        "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
        "lr_scheduler_type", "warmup_steps", "seed", "data_seed", "beta", "loss_type", "max_length", "bf16", "fp16",
        "loss_weights", "reward_weights", "num_generations", "temperature", "top_k", "max_completion_length",
        "use_vllm",
    )  # fmt: skip
    return {name: str(getattr(config, name)) for name in kept if hasattr(config, name)}


def quiet(trainer) -> None:
    """Take away the callback that prints every log line; `Progress` shows the same in one line."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
