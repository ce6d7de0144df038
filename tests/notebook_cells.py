"""Cells of the notebooks as they stand, run in a namespace of the test's: no kernel, no model."""

import ast
import json

from notebook_runs import ROOT


def cell_with(notebook: str, line: str) -> str:
    """The source of the one code cell that holds a line; `notebook` as "07_rollout" or "deep/05a_…"."""
    book = json.loads((ROOT / f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    (found,) = [source for source in sources if line in source]
    return found


def run_cell(notebook: str, line: str, names: dict, *, only: tuple[str, ...] = ()) -> dict:
    """Run that cell in `names`; with `only`, no statement of it but those that set one of these."""
    body = ast.parse(cell_with(notebook, line)).body
    if only:
        set_in = lambda node: {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        body = [node for node in body if set_in(node) & set(only)]
    exec(compile(ast.Module(body, []), notebook, "exec"), names)
    return names
