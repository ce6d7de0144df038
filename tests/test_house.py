"""Rules of the house: who imports whom, what notebooks look like when committed, and what the data may hold."""

import ast
import dataclasses
import functools
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftlib.parameters import NOT_GIVEN, given_parameters, notebook_parameters
from ftlib.profiles import PROFILES
from ftlib.quality import duplicate_rate, leakage
from ftlib.records import (
    RED_TEAM_FILES,
    Candidate,
    GoldItem,
    ProductionPrompt,
    Rating,
    RedTeamPrompt,
    SftRow,
    data_path,
    load_jsonl,
)

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if ".ipynb_checkpoints" not in path.parts]

# Imports run one way, top to bottom: a room may import rooms above it only, also inside functions. This is DESIGN.md's
# list, with the rooms that came since; `models` needs no other room, so it stands above `profiles`, which asks it what
# the CPU can do, and `rewards` stands below the `desk` whose logs it reads.
ORDER = (
    "files", "records", "intake", "ledger", "lineage", "machine", "progress", "parameters", "runs",
    "models", "profiles",
    "criteria", "scorecard", "sensitivity", "costs", "quality", "schema", "store", "ratings", "agreement",
    "pair_rules", "pairs", "rubric", "differences",
    "ragged", "generate", "vllm_sampler", "train", "kl_guard", "tree", "lean", "methods", "tasks", "sources",
    "everyday",
    "safety", "decisions", "dpo_watch", "refusals", "attacks", "redteam", "judges",
    "gates", "confusion", "power", "paired", "family", "looks", "lengths", "extraction",
    "pair_audit", "rater_flags", "raters", "calibration", "team", "truth", "label_noise", "simulated_team", "planted",
    "side_by_side",
    "data_gates", "own_rows", "audit", "rollout", "engines", "serve", "traffic", "endpoint_judge", "reward_judge",
    "desk", "hidden_cases", "long_cases", "whole_desk", "whole_cases", "rewards", "reward_attacks", "whole_rewards",
    "replays", "offline", "kept_rollouts",
    "best_of_n", "reward_agreement", "hacking", "environments", "trajectory_pairs", "arms",
    "summary", "seeds", "sheets", "exchange", "trl_forms", "label_tools", "holdouts", "sealed",
    "kept_answers", "approval", "risks",
    "hotspots", "roadmap", "cards",
    "plots", "show", "exercises", "solutions", "evidence", "pack",
    "widgets", "rater_widgets", "rollout_widgets", "approval_widgets", "replay_widgets",
    "colab", "runner", "__main__",
)  # fmt: skip
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"}
IMPORTS_TRANSFORMERS = {"train", "kl_guard"}  # their callbacks are subclasses of transformers' one


@functools.cache
def tree_of(room: str) -> ast.Module:
    return ast.parse((ROOT / "ftlib" / f"{room}.py").read_text(encoding="utf-8"))


def rooms_imported(room: str) -> set[str]:
    """The rooms of ftlib that a room imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(tree_of(room)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ftlib.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{room}: imports are absolute here"
            if node.module == "ftlib":
                found |= {alias.name for alias in node.names}
            elif (node.module or "").startswith("ftlib."):
                found.add(node.module.split(".")[1])
    return found


def test_every_room_has_its_place():
    rooms = {path.stem for path in (ROOT / "ftlib").glob("*.py")} - {"__init__"}
    assert rooms == set(ORDER), "give a new room its place in ORDER, and DESIGN.md's list its line"
    assert len(ORDER) == len(set(ORDER))
    assert [path for path in (ROOT / "ftlib").rglob("*.py") if path.parent.name != "ftlib"] == []  # flat


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_one_way(room):
    below = rooms_imported(room) - set(ORDER[: ORDER.index(room)])
    assert below == set(), f"{room} may import only rooms above it in ORDER"


def test_light_rooms_import_no_torch():
    light = [f"ftlib.{room}" for room in ORDER if room not in IMPORTS_TRANSFORMERS]
    code = f"import sys, {', '.join(light)}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("room", [room for room in ORDER if room != "__main__"])
def test_the_library_prints_nothing(room):
    calls = [n for n in ast.walk(tree_of(room)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert [n.lineno for n in calls if n.func.id == "print"] == []


@pytest.mark.parametrize("room", ORDER)
def test_a_room_says_what_it_is_for_and_what_it_leaves_out(room):
    assert "Left out on purpose" in (ast.get_docstring(tree_of(room)) or "")


def test_no_room_is_called_utils():
    assert not {"utils", "helpers", "misc", "common"} & set(ORDER)


# --- notebooks


@functools.cache
def notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in notebook(path)["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def code_tree(path: Path) -> ast.Module:
    """All code cells as one module; lines that only Jupyter understands are left out."""
    lines = "\n".join(source(cell) for cell in cells(path, "code")).split("\n")
    return ast.parse("\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in lines))


def parameters_cell(path: Path) -> str:
    tagged = [source(c) for c in notebook(path)["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "expected exactly one cell with the tag `parameters`"
    return tagged[0]


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda p: str(p.relative_to(ROOT / "notebooks").with_suffix("")))


each_notebook = named(NOTEBOOKS)
# Solutions are as long as their exercises; all other rules hold for them too.
each_notebook_of_a_run = named([path for path in NOTEBOOKS if path.parent.name != "solutions"])


def test_the_main_path_is_complete():
    names = {path.stem for path in NOTEBOOKS if path.parent.name == "notebooks"}
    assert {
        "00_start_here", "01_decision_scorecard", "02_sft", "03_collect_preferences", "04_dpo_qlora", "05_validate",
        "06_rft", "07_rollout", "08_govern",
    } <= names  # fmt: skip


@each_notebook
def test_parameters_are_typed_literals_with_a_comment_each(path):
    text = parameters_cell(path)
    lines = text.strip().split("\n")
    assert lines[0] == "# parameters"
    commented = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(text).body:
        assert isinstance(node, ast.AnnAssign), f"line {node.lineno}: expected `name: type = literal  # comment`"
        ast.literal_eval(node.value)  # ValueError: something derived, which goes stale when papermill injects
        assert node.end_lineno in commented, f"line {node.lineno}: a parameter without a comment"


@each_notebook
def test_every_notebook_takes_the_same_first_parameters(path):
    found = {node.target.id: ast.literal_eval(node.value) for node in ast.parse(parameters_cell(path)).body}
    wanted = {"profile": "auto", "run_dir": "", "headless": False}
    assert {name: found.get(name) for name in wanted} == wanted
    assert isinstance(found.get("seed"), int)


@each_notebook
def test_a_run_is_told_every_parameter(path):
    """Or two runs that differ in one would count as the same experiment with another seed."""
    calls = [n for n in ast.walk(code_tree(path)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "open_run"]
    assert len(calls) == (0 if path.parent.name == "solutions" else 1)
    for call in calls:
        (told,) = [keyword.value for keyword in call.keywords if keyword.arg == "parameters"]
        if ast.unparse(told) == "given":
            (told,) = [
                node.value
                for node in ast.walk(code_tree(path))
                if isinstance(node, ast.Assign) and ast.unparse(node).startswith("given = given_parameters(")
            ]
        assert ast.unparse(told).startswith(f"given_parameters({path.stem!r}, globals()")
        has = notebook_parameters(path)
        assert set(given_parameters(path.stem, has)) == set(has) - NOT_GIVEN
    free = {"profile", "run_dir", "seed", "headless", "model_id", "waive"}
    assert NOT_GIVEN - free == {"signer_name", "signer_role", "signed_on", "signed_by"}


@each_notebook
def test_committed_without_outputs_and_widget_state(path):
    assert "widgets" not in notebook(path)["metadata"]
    assert "papermill" not in notebook(path)["metadata"]
    for cell in cells(path, "code"):
        assert cell["outputs"] == [], "clear it: nbstripout notebooks/*.ipynb"
        assert cell["execution_count"] is None, "clear it: nbstripout notebooks/*.ipynb"
        assert not {"execution", "papermill"} & set(cell["metadata"])


@each_notebook_of_a_run
def test_a_notebook_has_25_to_45_cells(path):
    assert 25 <= len(notebook(path)["cells"]) <= 45


@each_notebook
def test_a_cell_is_short(path):
    # 20 lines is the aim (DESIGN.md, section 4); a trainer's config in sight may need a few more
    long = {i: len(source(c).split("\n")) for i, c in enumerate(notebook(path)["cells"]) if c["cell_type"] == "code"}
    assert {i: n for i, n in long.items() if n > 24} == {}


@each_notebook
def test_a_table_is_a_cells_last_line_or_displayed(path):
    """Anywhere else it is made, and nobody sees it."""
    lost = {}
    for number, cell in enumerate(notebook(path)["cells"]):
        calls = (
            [n.value for n in ast.parse(source(cell)).body[:-1] if isinstance(n, ast.Expr)]
            if cell["cell_type"] == "code"
            else []
        )
        names = {ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)}
        lost |= {number: names & {"table", "plots.gate_matrix"}} if names & {"table", "plots.gate_matrix"} else {}
    assert lost == {}


@each_notebook
def test_a_notebook_has_three_functions_at_most(path):
    defined = [n.name for n in ast.walk(code_tree(path)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert len(defined) <= 3, f"plumbing belongs into ftlib: {defined}"


@each_notebook
def test_a_figure_shows(path):
    """`run.figure` keeps a figure for the report; a notebook shows it as a cell's last line, or by `display`."""
    is_call = lambda node: isinstance(node, ast.Expr) and ast.unparse(node.value).startswith("run.figure(")
    bodies = [ast.parse(source(cell)).body for cell in cells(path, "code")]
    assert [ast.unparse(node) for body in bodies for node in body[:-1] if is_call(node)] == []


@each_notebook
def test_a_notebook_never_exits(path):
    """papermill takes `sys.exit` for success."""
    called = {ast.unparse(n.func) for n in ast.walk(code_tree(path)) if isinstance(n, ast.Call)}
    assert not {"sys.exit", "exit", "quit", "os._exit"} & called


@each_notebook
def test_cell_ids_are_unique(path):
    assert max(Counter(cell.get("id") for cell in notebook(path)["cells"]).values()) == 1


@each_notebook
def test_links_to_other_notebooks_lead_to_a_cell_or_a_heading(path):
    """`Link("05_validate", "c1")` in code, `[text](05_validate.ipynb#The-gate)` in words; "" is this notebook."""
    text = "\n".join(source(cell) for cell in notebook(path)["cells"])
    cell_links = re.findall(r'\bLink\("([^"]*)", "([^"]*)"\)', text)
    assert cell_links or path != ROOT / "notebooks" / "08_govern.ipynb", "08 links each answer to the cell that made it"
    for name, cell_id in cell_links:
        target = path.with_name(f"{name or path.stem}.ipynb")
        assert cell_id in {cell["id"] for cell in notebook(target)["cells"]}, f"{target.name} has no cell {cell_id}"
    for name, heading in re.findall(r"\]\(([\w/.]+\.ipynb)(?:#([^)]*))?\)", text):
        target = path.parent / name
        assert target.is_file(), f"{path.name} links to {name}, which is not there"
        words = "\n".join(source(cell) for cell in cells(target, "markdown"))
        headings = {line.lstrip("# ").replace(" ", "-") for line in words.split("\n") if line.startswith("#")}
        assert not heading or heading in headings, f"{name} has no heading {heading!r}"


CONFIGS = ("SFTConfig", "DPOConfig", "GRPOConfig")


class Names(dict):
    """A notebook's top-level names, computed from their assignments when they are asked for."""

    def __init__(self, tree: ast.Module, known: dict):
        super().__init__(known)
        self.assigned = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def __missing__(self, name: str):
        if name not in self.assigned:
            raise KeyError(name)
        self[name] = self.value(self.assigned[name])
        return self[name]

    def value(self, node: ast.expr):
        return eval(compile(ast.Expression(node), "notebook", "eval"), {}, self)


def config_calls() -> list[tuple[Path, ast.Call]]:
    return [
        (path, node)
        for path in NOTEBOOKS
        for node in ast.walk(code_tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in CONFIGS
    ]


def test_the_notebooks_show_each_trl_config():
    assert {ast.unparse(call.func) for _, call in config_calls()} == set(CONFIGS)


@pytest.mark.parametrize(("path", "call"), config_calls(), ids=lambda x: getattr(x, "stem", None) or x.func.id)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_pinned_trl_takes_the_configs(path, call, profile, tmp_path):
    """Every keyword is known to TRL, and the values of each profile make a config that TRL accepts."""
    import trl

    config = getattr(trl, ast.unparse(call.func).split(".")[-1])
    on_cpu = dataclasses.replace(PROFILES[profile], device="cpu", dtype="fp32")  # formats of a GPU need a GPU
    parameters = {n.target.id: ast.literal_eval(n.value) for n in ast.parse(parameters_cell(path)).body}
    names = Names(code_tree(path), {**parameters, "p": on_cpu, "run": SimpleNamespace(stage=tmp_path), "str": str})
    given = {}
    for keyword in call.keywords:
        value = names.value(keyword.value)
        given.update({keyword.arg: value} if keyword.arg else value)
    unknown = set(given) - {field.name for field in dataclasses.fields(config)}
    assert unknown == set(), f"{path.stem}: TRL {trl.__version__} does not know these"
    assert {"bf16", "fp16", "use_cpu"} <= set(given), "said always, because TRL turns bf16 on by itself"
    made = config(**given)
    assert all(getattr(made, name) == given[name] for name in ("learning_rate", "bf16", "seed"))


# --- files


@functools.cache
def project_files() -> list[Path]:
    """What git tracks, or would."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_paths_of_anybodys_machine():
    pattern = re.compile(r"/(?:home|Users|root)/\w|[A-Z]:\\+Users\\|file:///\w")
    found = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in pattern.finditer(text)]
    assert found == []


def test_no_large_files():
    assert [str(path) for path in project_files() if path.stat().st_size > 2_000_000] == []


# --- data

RED_TEAM = tuple(f"prompts/{file}" for file in RED_TEAM_FILES)


@functools.cache
def rows(name: str) -> list:
    model = {"sft": SftRow, "prompts/production": ProductionPrompt, "prompts/redteam": RedTeamPrompt}
    kind = "sft" if name.startswith("sft/") else name
    files = RED_TEAM if kind == "prompts/redteam" else (name,)
    return [row for file in files for row in load_jsonl(data_path(f"{file}.jsonl"), model.get(kind, GoldItem))]


SETS = {
    "sft/train": lambda: [r.input for r in rows("sft/train")],
    "sft/validation": lambda: [r.input for r in rows("sft/validation")],
    "sft/test": lambda: [r.input for r in rows("sft/test")],
    "production": lambda: [r.text for r in rows("prompts/production")],
    "harmful": lambda: [r.text for r in rows("prompts/redteam") if r.kind == "harmful"],
    "borderline": lambda: [r.text for r in rows("prompts/redteam") if r.kind == "borderline"],
    "gold": lambda: [f"{r.prompt} {r.answer_a} {r.answer_b}" for r in rows("preferences/gold")],
}
LEAST = {
    "sft/train": 480, "sft/validation": 160, "sft/test": 240, "production": 300, "harmful": 320, "borderline": 320,
    "gold": 40,
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_enough_rows_and_few_twins(name):
    found = duplicate_rate(SETS[name]())
    assert found.n >= LEAST[name]
    assert found.rate < 0.02


@pytest.mark.parametrize("earlier", ["sft/train", "sft/validation"])
def test_no_sft_test_row_has_a_twin(earlier):
    assert leakage(SETS[earlier](), SETS["sft/test"]()) == []


@pytest.mark.parametrize("name", ["prompts/production", "prompts/redteam"])
def test_no_test_prompt_has_a_twin_and_no_cluster_is_shared(name):
    text = {split: [r.text for r in rows(name) if r.split == split] for split in ("train", "validation", "test")}
    assert leakage(text["train"] + text["validation"], text["test"]) == []
    assert leakage(text["train"], text["validation"]) == []
    splits: dict[str, set[str]] = {}
    for row in rows(name):
        splits.setdefault(row.cluster, set()).add(row.split)
    assert {cluster: found for cluster, found in splits.items() if len(found) > 1} == {}


@pytest.mark.parametrize("kind", ["harmful", "borderline"])
def test_red_team_prompts(kind):
    mine = [r for r in rows("prompts/redteam") if r.kind == kind]
    assert sum(r.split == "test" for r in mine) >= 150
    assert {r.split for r in mine} == {"train", "validation", "test"}
    assert len({r.category for r in mine}) >= 10
    for split in ("train", "test"):  # what is tested was taught, category by category
        assert {r.category for r in mine if r.split == split} == {r.category for r in mine}


def test_red_team_ids_are_unique_and_later_files_are_for_training_only():
    assert max(Counter(r.id for r in rows("prompts/redteam")).values()) == 1
    for name in RED_TEAM[1:]:
        assert {r.split for r in load_jsonl(data_path(f"{name}.jsonl"), RedTeamPrompt)} == {"train"}


def test_a_text_has_one_kind_only():
    by_kind = {kind: {text.lower() for text in SETS[kind]()} for kind in ("production", "harmful", "borderline")}
    assert sum(map(len, by_kind.values())) == len(set().union(*by_kind.values()))


def test_gold_items_cover_each_kind_verdict_and_round():
    gold = rows("preferences/gold")
    assert {(r.kind, r.gold) for r in gold} == {
        (kind, verdict) for kind in ("production", "harmful", "borderline") for verdict in ("A", "B", "tie")
    }
    assert {r.round for r in gold} == {"training", "hidden"}
    constant = Counter(r.gold for r in gold if r.round == "hidden").most_common(1)[0][1]
    assert constant <= 0.5 * sum(r.round == "hidden" for r in gold)  # always "A" must not look like a good rater


# Ranges that belong to nobody: RFC 2606 names; 555-01xx (North America) and Ofcom's numbers for drama; cards that
# payment providers publish for tests.
DOMAIN = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid)$")
PHONE = re.compile(r"(?:\+?1?\d{3})?55501\d\d|(?:\+?44|0)1632960\d{3}|(?:\+?44|0)7700900\d{3}|(?:\+?44|0)2079460\d{3}")
CARDS = {
    "4242424242424242", "4111111111111111", "4000056655665556", "5555555555554444", "5105105105105100",
    "378282246310005", "6011111111111117",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "data").rglob("*.*")), ids=lambda path: path.name)
def test_contact_data_is_from_reserved_ranges(path):
    text = path.read_text(encoding="utf-8")
    domains = set(re.findall(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)*)", text))
    assert {d for d in domains if not DOMAIN.search(d.lower())} == set()
    numbers = {re.sub(r"\D", "", hit) for hit in re.findall(r"(?<![\w-])\+?\(?\d[\d ().-]{5,}\d(?!\w)", text)}
    assert {n for n in numbers if not PHONE.fullmatch(n) and n not in CARDS and len(n) >= 7} == set()


def test_recorded_candidates_and_votes():
    """Answers to training prompts only; each vote is for a candidate, and a rater votes once an item."""
    candidates = load_jsonl(data_path("preferences/candidates.jsonl"), Candidate)
    votes = load_jsonl(data_path("preferences/votes.jsonl"), Rating)
    prompts = {r.id: r for name in ("prompts/production", "prompts/redteam") for r in rows(name)}
    assert {prompts[c.prompt_id].split for c in candidates} == {"train"}
    assert all(c.prompt == prompts[c.prompt_id].text for c in candidates)
    assert all(c.cluster == prompts[c.prompt_id].cluster for c in candidates)
    assert {v.item_id for v in votes} <= {c.id for c in candidates}
    assert max(Counter((v.item_id, v.rater) for v in votes).values()) == 1
