"""A notebook's parameters: read its defaults without running it, and refuse names and types that it does not have.

Left out on purpose: ranges and choices. The notebook checks those itself, where the reader sees them.
"""

import ast
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlib.files import did_you_mean, read_json

# Kept in run.json (profile, seed, model), or no part of the experiment: where it runs, who looks on, who signs.
NOT_GIVEN = frozenset(
    {
        "profile",
        "run_dir",
        "seed",
        "headless",
        "model_id",
        "waive",
        "signer_name",
        "signer_role",
        "signed_on",
        "signed_by",
    }
)
_NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def check_parameters(defaults: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Refuse parameters that a notebook does not have, or whose type is not that of the default.

    Args:
        defaults: name -> default, as from `notebook_parameters`. A default of None takes any type.
        given: name -> value.

    Raises:
        ValueError: names every parameter at fault.
    """
    faults = []
    for name, value in given.items():
        if name not in defaults:
            faults.append(f"unknown parameter {name!r}{did_you_mean(name, defaults)}")
            continue
        default = defaults[name]
        wanted = (int, float) if isinstance(default, float) else type(default)
        is_bool_mix = isinstance(value, bool) != isinstance(default, bool)
        if default is not None and (is_bool_mix or not isinstance(value, wanted)):
            hint = " (with papermill, pass texts by -r, not -p)" if isinstance(default, str) else ""
            faults.append(
                f"parameter {name!r}: expected {type(default).__name__}, like {default!r}; "
                f"got {type(value).__name__} {value!r}{hint}"
            )
    if faults:
        raise ValueError("\n".join(faults))


def notebook_parameters(path: str | Path) -> dict[str, Any]:
    """The parameters of a notebook and their defaults: the literals of its one cell tagged `parameters`.

    Raises:
        FileNotFoundError: no such notebook.
        ValueError: not a notebook, not just one tagged cell, or a value that is no literal.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a notebook, found no file; check the path")
    cells = read_json(path).get("cells", [])
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path}: expected one cell tagged 'parameters', got {len(tagged)}; tag just one")
    try:
        return _literals("".join(tagged[0]["source"]))
    except ValueError as error:
        raise ValueError(f"{path}, cell 'parameters': {error}") from None


def given_parameters(notebook: str, names: Mapping[str, Any], **instead: object) -> dict[str, Any]:
    """What a notebook was given, for `open_run`: each of its parameters but `NOT_GIVEN`, so that none is forgotten.

    Two runs differ in their seed alone when nothing in here differs (see `seeds`).

    Args:
        notebook: its name without ".ipynb"; its parameters cell is the one that this kernel ran, else the file's.
        names: the notebook's `globals()`.
        instead: values to keep in place of those, such as an address without its password.

    Raises:
        ValueError: `instead` names no parameter, or the cell with the parameters has not been run.

    Example:
        >>> given_parameters("05a_trust_the_gates", {"known_prompts": 24, "simulations": 400, "p": 1})
        {'known_prompts': 24, 'simulations': 400}
    """
    own = [cell for cell in kernel_cells() if cell.startswith("# parameters\n")]
    if own:
        known = _literals(own[-1])
    else:
        (path,) = [path for path in _NOTEBOOKS.rglob(f"{notebook}.ipynb") if path.parent.name != "solutions"]
        known = notebook_parameters(path)
    wanted = [name for name in known if name not in NOT_GIVEN]
    unknown = [name for name in instead if name not in wanted]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no parameter of {notebook} that is kept{did_you_mean(unknown[0], wanted)}")
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"{notebook}: parameter {missing[0]!r} has no value yet; run the cell '# parameters' first")
    return {name: instead.get(name, names[name]) for name in wanted}


def check_injected(cells: Sequence[str]) -> None:
    """Check what papermill injected against the notebook's own parameters; papermill itself only warns.

    Args:
        cells: sources of the cells executed so far: the notebook's own begins with "# parameters"; the injected one
            has the first line "# Parameters". Without both there is nothing to check.

    Raises:
        ValueError: as `check_parameters`.
    """
    first_lines = [cell.split("\n", 1)[0].strip() for cell in cells]
    injected = [cell for cell, first in zip(cells, first_lines, strict=True) if first == "# Parameters"]
    own = [cell for cell, first in zip(cells, first_lines, strict=True) if first.startswith("# parameters")]
    if own and injected:
        given = {}
        for statement in ast.parse(injected[-1]).body:
            # papermill writes NaN and infinity as calls; what is no literal is left to the notebook's own checks.
            with contextlib.suppress(ValueError):
                given |= _literals(ast.unparse(statement))
        check_parameters(_literals(own[-1]), given)


def kernel_cells() -> list[str]:
    """The sources of the cells executed so far, if this is a kernel; else none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return list(shell.user_ns.get("In", [])) if shell else []


def _literals(source: str) -> dict[str, Any]:
    """Name -> value of the plain assignments in a cell's source."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"expected Python, got {error.msg} in line {error.lineno}; correct the line") from None
    found = {}
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            target = None
        try:
            found[target.id] = ast.literal_eval(statement.value)  # type: ignore[union-attr]
        except (AttributeError, ValueError, TypeError):
            raise ValueError(
                f"expected lines `name: type = literal`, got {ast.unparse(statement)!r}; derive values in a later cell"
            ) from None
    return found
