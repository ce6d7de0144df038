"""Cells of the notebooks as they stand, run in a namespace of the test's: no kernel, no model."""

import ast
import json

from notebook_runs import ROOT


def code_cells(notebook: str) -> list[str]:
    """The sources of the code cells; `notebook` as "07_rollout" or "deep/05a_…"."""
    book = json.loads((ROOT / f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


def cell_with(notebook: str, line: str) -> str:
    """The source of the one code cell that holds a line."""
    (found,) = [source for source in code_cells(notebook) if line in source]
    return found


def run_cell(notebook: str, line: str, names: dict, *, only: tuple[str, ...] = ()) -> dict:
    """Run that cell in `names`; with `only`, no statement of it but those that set one of these."""
    body = ast.parse(cell_with(notebook, line)).body
    if only:
        set_in = lambda node: {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        body = [node for node in body if set_in(node) & set(only)]
    exec(compile(ast.Module(body, []), notebook, "exec"), names)
    return names


def line_of(notebook: str, variable: str, names: dict):
    """What the notebook's own line makes of these names; the one that assigns to the variable."""
    nodes = [
        node for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Assign)
    ]
    made = [node.value for node in nodes if ast.unparse(node.targets[0]) == variable]
    assert len(made) == 1
    return eval(ast.unparse(made[0]), names)
