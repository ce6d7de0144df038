"""Lines of notebooks, read out and tried: what a finished training is held by, and what is said of its result."""

import ast
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from notebook_cells import cell_with, code_cells, line_of
from notebook_runs import ROOT

from benchmarks import rft
from ftlib import arms, desk, gates, replays, reward_attacks, sealed, whole_cases
from ftlib import train as ft
from ftlib.paired import share_difference
from ftlib.records import write_jsonl

DEEP = sorted(f"deep/{p.stem}" for p in (ROOT / "notebooks/deep").glob("*.ipynb"))
WHERE = {"06_rft": "same_warm", "deep/06a_hacked_on_purpose": "key", "deep/06b_rft_or_more_dpo": "key"}


def key_of(name: str, chain: list[Path]) -> str:
    config = SimpleNamespace(learning_rate=1e-3, seed=3)
    names = dict.fromkeys(("n_rows", "trick_share", "new_share", "max_level", "longest", "seed"), 1)
    names |= {"json": json, "ft": ft, "sealed": sealed, "chain": chain, "model_id": "embedded", "logged": [1, 2]}
    return line_of(name, WHERE[name], names | dict.fromkeys(("config", "shows", "imitate"), config))


@pytest.fixture
def chain(tmp_path):
    folders = [tmp_path / name / "adapter" for name in ("sft", "dpo", "rft")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"weights of " + folder.parent.name.encode())
    return folders


@pytest.mark.parametrize("name", WHERE)
@pytest.mark.parametrize("stage", ["sft", "dpo", "rft"])
def test_a_retrained_adapter_upstream_is_another_training(name, stage, chain, tmp_path):
    if stage == "rft" and name == "06_rft":
        chain = chain[:2]  # 06 trains that one itself
    before = key_of(name, chain)
    assert key_of(name, chain) == before
    done = arms.Arm(tmp_path / "arm", key=before)
    done.adapter.mkdir(parents=True)
    done.finish(rollouts=1, sampled=1, trained=1)
    changed = tmp_path / stage / "adapter" / "adapter_model.safetensors"
    changed.write_bytes(b"trained with another beta")
    after = key_of(name, chain)
    assert (after != before) == (changed.parent in chain)
    assert arms.Arm(tmp_path / "arm", key=before).done and arms.Arm(tmp_path / "arm", key=after).done == (
        after == before
    )


def test_the_grpo_of_06_hangs_on_its_warm_start(tmp_path):
    """Checkpoints of another warm start are thrown away, so training begins anew."""
    assert any('"warm": same_warm' in cell for cell in code_cells("06_rft"))
    folder = tmp_path / "grpo"
    ft.last_complete_checkpoint(folder, fingerprint={"warm": "one"})
    (folder / "checkpoint-12").mkdir()
    (folder / "checkpoint-12" / "COMPLETE").touch()
    assert ft.last_complete_checkpoint(folder, fingerprint={"warm": "one"}).endswith("checkpoint-12")
    assert ft.last_complete_checkpoint(folder, fingerprint={"warm": "two"}) is None


@pytest.mark.parametrize(("gained", "rows", "said"), [(5, 1, False), (6, 1, True), (7, 5, False), (8, 5, True)])
def test_what_06b_calls_shown(gained, rows, said):
    """All n changed cases are RFT's: McNemar's p is 2 * 0.5 ** n, 0.031 at six, 0.0078 at eight; Holm: times rows."""
    dpo, rft = np.zeros(20 * rows), np.zeros(20 * rows)
    rft[:gained] = 1
    lengths = {str(k): list(range(20 * k, 20 * (k + 1))) for k in range(rows)}
    done = {"DPO": dpo, "RFT": rft}.__getitem__
    tested = line_of("deep/06b_rft_or_more_dpo", "tested", {"gates": gates, "done": done, "lengths": lengths})
    assert tested == pytest.approx([2 * 0.5**gained, *[1.0] * (rows - 1), 2 * 0.5**gained])  # the last one: all cases
    payoff = {k: ((gained / 20, None), 20) for k in lengths}
    names = {"gates": gates, "payoff": payoff, "tested": tested[:-1]}
    names["by_chance"] = line_of("deep/06b_rft_or_more_dpo", "by_chance", names)
    assert line_of("deep/06b_rft_or_more_dpo", "shows", names) == (["0"] if said else [])


def test_06c_says_which_step_is_kept():
    row = lambda step, action: {"step": step, "action": action}
    stopped = {"rows": [row(0, "start"), row(3, "kept"), row(6, "back, stopped")]}
    at_once = {"rows": [row(0, "start"), row(3, "back, stopped")]}
    kept = lambda done: line_of("deep/06c_offline_first", "step_kept[name]", {"trained": {"x": done}, "name": "x"})
    assert (kept(stopped), kept(at_once)) == (3, 0)


def test_06c_draws_the_same_pairs_when_its_cells_are_run_again():
    texts = [f"way {n}" for n in range(8)]
    names = {
        "np": np, "seed": 3, "n_tries": 4, "pairs_a_case": 2, "table": lambda *_, **__: None,
        "train_cases": [SimpleNamespace(id="c1", message="refund me"), SimpleNamespace(id="c2", message="swap it")],
        "log": SimpleNamespace(trajectories=range(8), chats=texts),
        "replays": SimpleNamespace(told=lambda _, chat: chat),
        "rng": np.random.default_rng(1), "votes_path": "", "run": SimpleNamespace(write_rows=lambda *_: None),
    }  # fmt: skip
    drawn = []
    for _ in range(2):
        exec(cell_with("deep/06c_offline_first", "item = records.Candidate("), names)
        drawn.append([item.id for item in names["items"]])
        names["rng"].random()  # what the cells between have drawn
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 4


def test_06c_trains_on_votes_of_an_earlier_run(tmp_path):
    """Two runs with other rollouts: the first one's raters vote, the second one takes their votes and pairs. Both run
    the cells as they stand, over rollouts that are played."""

    def cells_of(stage, seed, **given):
        cases = desk.make_cases(4, seed=seed)
        ways = (reward_attacks.honest_work, *list(reward_attacks.CONSTANT.values())[:3])
        played = [desk.play(case, way(case)) for case in cases for way in ways]
        stage.mkdir()
        run = SimpleNamespace(
            write_rows=lambda name, rows: write_jsonl(stage / name, rows), uses=lambda path: Path(path)
        )
        names = {
            "np": np, "seed": seed, "n_tries": 4, "pairs_a_case": 3, "train_cases": cases, "replays": replays,
            "log": SimpleNamespace(trajectories=[t for t, _ in played], chats=[chat for _, chat in played]),
            "votes_path": "", "run": run, "table": lambda *_, **__: None, "short_liking": 0.1, "headless": True,
            "wanted_agreement": 0.75, "p": SimpleNamespace(is_smoke=False), "desk": desk,
            "total": lambda t: float(t.success), "work": stage, "Path": Path,
        }  # fmt: skip
        names |= given
        exec(cell_with("deep/06c_offline_first", "item = records.Candidate("), names)
        exec(cell_with("deep/06c_offline_first", "built = pairs.build_pairs"), names)
        return names

    first = cells_of(tmp_path / "first", 3)
    assert "simulated" in first["rests_on"] and first["built"].pairs
    person = lambda vote: {"simulated": False, "rater": vote.rater.replace("sim", "ann")}
    votes = [vote.model_copy(update=person(vote)) for vote in first["votes"]]
    write_jsonl(tmp_path / "first" / "ratings.jsonl", votes)  # as if people had given them
    second = cells_of(tmp_path / "second", 4, votes_path=str(tmp_path / "first" / "ratings.jsonl"))
    key = lambda vote: (vote.item_id, vote.rater)
    assert sorted(second["votes"], key=key) == sorted(votes, key=key)
    assert {item.id for item in second["items"]} == {item.id for item in first["items"]}
    assert "simulated" not in second["rests_on"]
    sides = lambda names: sorted((pair.chosen, pair.rejected) for pair in names["built"].pairs)
    assert sides(second) == sides(first)
    for name in ("ratings.jsonl", "rating_items.jsonl"):  # so that a third run can take them
        assert (tmp_path / "second" / name).exists()


@pytest.mark.parametrize(
    ("lower", "high", "effective", "step", "verdict"),
    [
        (0.46, 0.80, 120, 6, "PASS"),  # 0.50 - 0.05 is the line: even the bound is no more than may_lose below
        (0.44, 0.80, 120, 6, "ABSTAIN"),  # the bound is too low, and the estimate does not say that it is worse
        (0.30, 0.49, 120, 6, "FAIL"),  # told to be worse
        (0.46, 0.80, 39, 6, "ABSTAIN"),  # too few effective rollouts, whatever they say
        (0.30, 0.49, 39, 6, "ABSTAIN"),
        (0.46, 0.80, 120, 0, "ABSTAIN"),  # it never moved
    ],
)
def test_06c_goes_online_by_the_lower_bound(lower, high, effective, step, verdict):
    said = SimpleNamespace(lower=lower, value=0.6, interval=gates.Interval(0.2, high), effective_n=effective)
    names = {
        "weights": {"x": 0}, "success": lambda _: np.array([0.5]), "work": Path("."), "start_dir": "", "start": None,
        "models": SimpleNamespace(load_merged=lambda *_, **__: None), "p": SimpleNamespace(dtype="", device=""),
        "held": SimpleNamespace(trajectories=[], turns=[]), "np": np, "gates": gates, "may_lose": 0.05,
        "offline": SimpleNamespace(
            log_likelihoods=lambda *_: None,
            RolloutLog=lambda *_: SimpleNamespace(ask=lambda *_: None, estimate=lambda *_: said),
        ),
        "need_effective": 40, "step_kept": {"x": step}, "clock": SimpleNamespace(lap=lambda _: None),
        "run": SimpleNamespace(notebook="06c", gate=lambda gate: gate), "table": lambda *_, **__: None,
    }  # fmt: skip
    said.mean_weight = said.plain = 1.0
    exec(cell_with("deep/06c_offline_first", "_go_online"), names)
    (gate,) = names["results"]
    assert (gate.verdict, gate.threshold) == (verdict, pytest.approx(0.45)) and gate.value in (lower, None)


@pytest.mark.parametrize(
    ("fell", "ends", "verdict"),
    [
        (-0.01, (-0.03, 0.01), "PASS"),
        (-0.01, (-0.08, 0.04), "ABSTAIN"),  # it may have fallen further than the margin
        (-0.05, (-0.12, 0.02), "ABSTAIN"),  # it may as well not have
        (-0.10, (-0.16, -0.04), "FAIL"),
    ],
)
def test_06c_a_fall_that_may_be_chance_is_no_verdict(fell, ends, verdict):
    ends = gates.Interval(*ends)
    told = line_of("deep/06c_offline_first", "told_apart", {"fell": fell, "fell_ends": ends})
    gate = gates.judge_gate("x", "06c", value=fell if told else None, threshold=-0.02, op=">=", n=20, need_n=15,
                            interval=ends, margin=0.03)  # fmt: skip
    assert gate.verdict == verdict


@pytest.mark.parametrize(("ends", "told"), [((0.02, 0.3), True), ((-0.1, 0.1), True), ((-0.4, 0.5), False)])
def test_06a_a_control_that_scatters_excludes_nothing(ends, told):
    names = {"ends": gates.Interval(*ends), "gains": {"mended": (0.3, None)}}
    assert line_of("deep/06a_hacked_on_purpose", "told", names) == told


@pytest.mark.parametrize(("share", "rows"), [(0.0, 0), (0.05, 2), (0.4, 19), (0.5, 24), (1.0, 48)])
def test_06a_shows_the_trick_in_the_share_of_rows_that_was_asked_for(share, rows):
    names = {"np": np, "seed": 3, "n_rows": 48, "trick_share": share}
    assert len(line_of("deep/06a_hacked_on_purpose", "tricked_rows", names)) == rows


@pytest.mark.parametrize("steps", [1, 6, 12])
def test_the_arms_of_06a_have_the_rate_of_the_first_steps_of_06(steps):
    """06 falls linearly to 0 over 12 steps: in step k, from 0, the rate is 5e-4 (1 - k / 12)."""
    import torch
    from transformers import get_scheduler

    code = ast.parse(cell_with("deep/06a_hacked_on_purpose", "grpo = GRPOConfig("))
    given = {k.arg: k.value for n in ast.walk(code) if isinstance(n, ast.Call) for k in n.keywords}
    names = {"learning_rate": 5e-4, "n_steps": steps, "p": SimpleNamespace(rft_steps=12)}
    kwargs = eval(ast.unparse(given["lr_scheduler_kwargs"]), names)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-4)
    kind = ast.literal_eval(given["lr_scheduler_type"])
    schedule = get_scheduler(
        kind, optimizer, num_warmup_steps=0, num_training_steps=steps, scheduler_specific_kwargs=kwargs
    )
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([5e-4 * (1 - k / 12) for k in range(steps)])


@pytest.mark.parametrize("beta", [0.05, 0.3, 1.0])
def test_04b_draws_its_losses_at_any_beta(beta):
    """Its asserts hold, and the corner of hinge at 1 / beta lies well inside the figure."""
    import torch
    import torch.nn.functional as F

    code = cell_with("deep/04b_losses_compared", "swapped, simpo =").split("fig = ")[0]
    names = {"beta": beta, "torch": torch, "F": F, "np": np}
    exec(code, names)
    assert names["margin"].min() < 0 < 1 / beta < 0.5 * names["margin"].max()


def test_04b_the_control_is_the_old_pairs_of_the_fresh_ones_prompts():
    pair = lambda id: SimpleNamespace(id=id)
    names = {"fresh": [pair("b"), pair("d")], "unseen": [pair(x) for x in "abcd"], "p": SimpleNamespace(is_smoke=False)}
    names["renewed"] = line_of("deep/04b_losses_compared", "renewed", names)
    assert [x.id for x in line_of("deep/04b_losses_compared", "old", names)] == ["b", "d"]
    assert line_of("deep/04b_losses_compared", "old", names | {"renewed": set()}) == []


def test_what_06d_keeps_hangs_on_adapters_cases_and_settings(chain, tmp_path):
    """A policy that was measured is found again; under other adapters, cases or steps it is measured anew."""
    cases = whole_cases.make_whole_cases(8, seed=3)
    names = {"arms": arms, "work": tmp_path, "sealed": sealed, "ft": ft, "whole": whole_cases, "asdict": asdict}
    names |= {"model_id": "embedded", "chain": chain, "imitate": SimpleNamespace(learning_rate=1e-3), "lora": {"r": 16}}
    names |= {"p": SimpleNamespace(dtype="fp32"), "options": {"seed": 3}, "tools": [], "WEIGHTS": {"accuracy": 1.0}}
    names |= {"held_out": cases[:4], "sets": {"rung 1": cases[4:]}}
    kept = lambda **other: line_of("deep/06d_the_whole_desk", "results", names | other)
    kept()["base"] = {"success": [1.0, 0.0]}
    assert kept()["base"]["success"].tolist() == [1.0, 0.0]
    others = [{"held_out": cases[:3]}, {"sets": {"rung 1": cases[3:]}}, {"options": {"seed": 4}}, {"chain": chain[:1]},
              {"imitate": SimpleNamespace(learning_rate=1e-4)}, {"lora": {"r": 8}}]  # fmt: skip
    assert not any("base" in kept(**other) for other in others)


def test_06d_judges_each_rung_by_its_own_best_constant_policy():
    """Ten of twenty against a quarter: Wilson's low end is 0.299, a PASS. Seven: 0.181, an ABSTAIN. Four are fewer than
    a quarter: a FAIL. Fourteen cases are too few. Rung 2 has half of its cases under one outcome."""
    turns = ["refund", "exchange", "decline", "escalate"]
    rung = {1: (turns * 5, 10), 2: (["decline", *turns] * 4, 7), 3: (turns * 5, 4), 4: (turns * 5, 7)}
    rung[5] = (turns * 3 + turns[:2], 14)
    held_out, right, at = [], [], {}
    for level, (outcomes, hits) in rung.items():
        at[level] = np.arange(len(right), len(right) + len(outcomes))
        held_out += [SimpleNamespace(outcome=outcome) for outcome in outcomes]
        right += [1.0] * hits + [0.0] * (len(outcomes) - hits)
    done = lambda name, places=slice(None): np.array(right)[places] * (name == "all")
    found = {"all": {"nothing leaked": np.ones(94), "replied": np.ones(94)}}
    names = {"done": done, "last": "all", "held_out": held_out, "at": at, "desk": desk, "gates": gates, "found": found,
             "share_difference": share_difference, "plots": SimpleNamespace(gate_matrix=lambda *_: None),
             "run": SimpleNamespace(notebook="06d", gate=lambda gate: gate)}  # fmt: skip
    exec(cell_with("deep/06d_the_whole_desk", "whole_desk.rung_"), names)
    judged = {gate.id: gate for gate in names["results_of"]}
    verdicts = {level: judged[f"whole_desk.rung_{level}"].verdict for level in rung}
    assert verdicts == {1: "PASS", 2: "FAIL", 3: "FAIL", 4: "ABSTAIN", 5: "ABSTAIN"}
    assert judged["whole_desk.rung_2"].threshold == 0.4 and judged["whole_desk.rung_1"].threshold == 0.25


def test_the_weights_of_06d_are_those_that_are_attacked_in_the_benchmark():
    weights = line_of("deep/06d_the_whole_desk", "WEIGHTS", {})
    assert weights == rft.WHOLE_WEIGHTS and sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("notebook", sorted(p.stem for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")) + DEEP)
def test_an_answer_takes_no_name_that_other_cells_read(notebook):
    """Else such a cell, run once more after the exercise, finds the reader's answer in the place of its own object."""
    answers, read_in = set(), []
    for cell in code_cells(notebook):
        nodes = list(ast.walk(ast.parse(cell)))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        set_here = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        read_in.append({node.id for node in names} - set_here)
        checks = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "check"]
        answers |= {arg.id for call in checks for arg in call.args if isinstance(arg, ast.Name)} & set_here
    assert answers, f"{notebook}: found no exercise; has the way changed in which one is checked?"
    taken = sorted(name for name in answers if any(name in names for names in read_in))
    assert not taken, f"{notebook}: other cells read {taken}, which an exercise sets; rename the reader's answer"
