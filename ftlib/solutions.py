"""The exercises of a notebook, taken out of the notebook itself, so that no solution can drift from its question.

A notebook is read as JSON. Of its code only the statements run that make an `Exercise`, and what these need: an import,
a function, a value. So nothing is loaded or trained, and no run is opened. Questions that are only words are the
numbered lines under "## Exercises".

Left out on purpose: the worked answers, which stand in notebooks/solutions/; and values that a method changes in place
(`cases.update(...)`), which nobody can see in the names of a statement: build an exercise's values in one assignment.
"""

import ast
import builtins
import dis
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from ftlib.exercises import Exercise, Note
from ftlib.files import did_you_mean

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


@dataclass(frozen=True)
class Sheet:
    """The exercises of one notebook.

    Attributes:
        notebook: its name, e.g. "02_sft".
        coded: name in the notebook -> the exercise.
        spoken: number -> a question that is only words.
        names: what the notebook's own statements made: the exercises, what they need, and what was asked for.
    """

    notebook: str
    coded: dict[str, Exercise]
    spoken: dict[int, str]
    names: dict[str, Any]

    def ask(self, which: str | int) -> Note:
        """The question: of a coded exercise by its name, else by its number.

        Raises:
            ValueError: the notebook has no such exercise.
        """
        if isinstance(which, int):
            if which not in self.spoken:
                raise ValueError(f"{self.notebook}: no question {which} (known: {', '.join(map(str, self.spoken))})")
            return Note("question", self.spoken[which])
        return Note("question", self._exercise(which).question)

    def solve(self, name: str, answer: Any) -> Note:
        """The notebook's own check of an answer, which has to be right, and the notebook's own solution.

        Raises:
            ValueError: the notebook has no such exercise, or calls the answer wrong or not tried.
        """
        exercise = self._exercise(name)
        note = exercise.check(answer)
        if note.state != "right":
            raise ValueError(
                f"{self.notebook}, exercise {name!r}: expected a right answer, got {answer!r}, which its test calls "
                f"{note.state}: {note.text}; mend the solution, or the exercise if it has changed"
            )
        return Note("right", exercise.answer)

    def _exercise(self, name: str) -> Exercise:
        if name not in self.coded:
            raise ValueError(f"{self.notebook}: no exercise {name!r}{did_you_mean(name, self.coded)}")
        return self.coded[name]


def open_sheet(notebook: str, *, also: Sequence[str] = (), folder: Path = NOTEBOOKS) -> Sheet:
    """Read the exercises of a notebook of the main path or of deep/.

    Args:
        notebook: its name, "02_sft".
        also: further names of the notebook that a solution wants, e.g. a function that is taught there.

    Raises:
        FileNotFoundError: no such notebook.
        ValueError: it has no exercise; one is not assigned to a name of its own; or what an exercise or a name in
            `also` needs is not there, needs a run, or fails. The text names the notebook and the cell.
    """
    path = _find(notebook, folder)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    statements = _statements(path, cells)
    wanted = _exercises(path, statements)
    spoken = _spoken(path, cells)
    if not wanted and not spoken:
        raise ValueError(
            f'{path.name}: expected `name = Exercise(...)` or numbered lines under "## Exercises", got none'
        )
    chosen = set()
    for at in wanted.values():
        _choose(at, statements, chosen, path)
    for name in also:
        at = _maker(name, statements)
        if at is None:
            raise ValueError(f"{path.name}: also={name!r}: the notebook makes no such name at its top level")
        _choose(at, statements, chosen, path)
    names = _run([statements[at] for at in sorted(chosen)], path)
    return Sheet(path.stem, {name: names[name] for name in wanted}, spoken, names)


@dataclass(frozen=True)
class _Statement:
    node: ast.stmt
    code: CodeType
    cell: int  # as in the runner's errors: the notebook's first cell is 1
    makes: frozenset[str]
    needs: frozenset[str]


def _find(notebook: str, folder: Path) -> Path:
    found = {path.stem: path for where in (folder, folder / "deep") for path in sorted(where.glob("[0-9]*.ipynb"))}
    if notebook not in found:
        raise FileNotFoundError(f"{folder}: no notebook {notebook!r}{did_you_mean(notebook, found)}")
    return found[notebook]


def _source(cell: dict) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def _statements(path: Path, cells: Sequence[dict]) -> list[_Statement]:
    """The top-level statements of all code cells, an import of several names as one statement a name."""
    found = []
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] != "code":
            continue
        try:
            body = ast.parse(_source(cell)).body
        except SyntaxError as error:
            raise ValueError(
                f"{path.name} cell {number}: expected plain Python, got {error.msg}: {error.text}"
            ) from error
        for node in (part for whole in body for part in _parts(whole)):
            code = compile(ast.Module([node], []), f"{path.name} cell {number}", "exec")
            makes, needs = _names(code)
            found.append(_Statement(node, code, number, frozenset(makes | _changed(node)), frozenset(needs)))
    return found


def _parts(node: ast.stmt) -> Iterator[ast.stmt]:
    """`from ftlib import gates, lean` as two, so that an exercise on gates imports nothing else."""
    if isinstance(node, ast.Import):
        yield from (ast.copy_location(ast.Import([name]), node) for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (ast.copy_location(ast.ImportFrom(node.module, [name], node.level), node) for name in node.names)
    else:
        yield node


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """(names that a statement makes, names that it or its functions look up outside of themselves).

    From the compiled code, because there a name of a function or of a comprehension is none of the module's.
    """
    steps = list(dis.get_instructions(code))
    makes = {step.argval for step in steps if step.opname in ("STORE_NAME", "STORE_GLOBAL")}
    needs = {step.argval for step in steps if re.match(r"LOAD_.*(NAME|GLOBAL)", step.opname)}
    for inner in (const for const in code.co_consts if isinstance(const, CodeType)):
        made_inside, wanted = _names(inner)
        needs |= wanted - made_inside  # a class body makes names too, and they stay inside
    return makes, needs


def _changed(node: ast.stmt) -> set[str]:
    """`cases` for `cases["a"] = 1`: an assignment into a value changes it, and so belongs to it."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    roots = set()
    for target in targets:
        while isinstance(target, (ast.Subscript, ast.Attribute)):
            target = target.value
        roots |= {target.id} if isinstance(target, ast.Name) else set()
    return roots


def _exercises(path: Path, statements: Sequence[_Statement]) -> dict[str, int]:
    """Name of each exercise -> the statement that makes it."""
    found = {}
    is_one = lambda node: isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == Exercise.__name__
    for at, statement in enumerate(statements):
        made = sum(map(is_one, ast.walk(statement.node)))
        if not made:
            continue
        targets = getattr(statement.node, "targets", [])
        alone = made == 1 and is_one(getattr(statement.node, "value", None))
        if not (alone and len(targets) == 1 and isinstance(targets[0], ast.Name)) or targets[0].id in found:
            raise ValueError(
                f"{path.name} cell {statement.cell}: expected `name = Exercise(...)`, each name once, got "
                f"{_first_line(statement)!r}"
            )
        found[targets[0].id] = at
    return found


def _maker(name: str, statements: Sequence[_Statement]) -> int | None:
    """The last statement that makes a name."""
    return next((at for at in reversed(range(len(statements))) if name in statements[at].makes), None)


def _choose(at: int, statements: Sequence[_Statement], chosen: set[int], path: Path) -> None:
    """Add a statement, and what it needs from those before it, to the chosen ones."""
    if at in chosen:
        return
    chosen.add(at)
    statement = statements[at]
    line = f"{path.name} cell {statement.cell}: {_first_line(statement)!r}"
    if "open_run" in statement.needs:
        raise ValueError(f"{line} is needed by an exercise, which has to stand alone: give it values of its own")
    for name in sorted(statement.needs):
        maker = _maker(name, statements[:at])
        if maker is not None:
            _choose(maker, statements, chosen, path)
        elif name not in statement.makes and not hasattr(builtins, name):  # a function may call itself
            raise ValueError(f"{line} needs the name {name!r}, which no statement before it makes; define it above")


def _first_line(statement: _Statement) -> str:
    return ast.unparse(statement.node).split("\n")[0][:80]


def _run(statements: Sequence[_Statement], path: Path) -> dict[str, Any]:
    """Execute statements, in the notebook's order, with nothing else around them."""
    names: dict[str, Any] = {"__name__": path.stem}
    for statement in statements:
        try:
            exec(statement.code, names)
        except Exception as error:  # the notebook's code may raise anything
            raise ValueError(
                f"{path.name} cell {statement.cell}: {_first_line(statement)!r} fails when it runs without the rest of "
                f"the notebook: {type(error).__name__}: {error}"
            ) from error
    return names


def _spoken(path: Path, cells: Sequence[dict]) -> dict[int, str]:
    """The numbered questions in the cells of words from "## Exercises" to the next heading; links as their words."""
    text = "\n\n".join(_source(cell) for cell in cells if cell["cell_type"] == "markdown")
    section = re.search(r"^## Exercises\n(.*?)(?=^## |\Z)", text + "\n", re.DOTALL | re.MULTILINE)
    found: dict[int, str] = {}
    for number, words in re.findall(
        r"^(\d+)\. (.+?)(?=\n\s*\n|\n\d+\. |\s*\Z)", section[1] if section else "", re.S | re.M
    ):
        if int(number) in found:
            raise ValueError(f"{path.name}: two exercises have the number {number}; number them one after the other")
        found[int(number)] = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(words.split()))
    return found
