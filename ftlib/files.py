"""Files that survive a kill: whole replacement, synced appends, locks, hashes; and JSON with clear errors.

Left out on purpose: anything about what is in the files. The rooms above this one know that.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

LOCK_SECONDS = 60


def write_atomic(path: str | Path, text: str) -> Path:
    """Write a UTF-8 file as a whole or not at all (see `replacing`)."""
    path = Path(path)
    data = text.encode("utf-8")
    with replacing(path) as file:
        file.write(data)
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write and read a hidden temporary file (`.<name>.*.tmp`) beside `path`; after the block it is synced and renamed.

    When the block raises, the temporary file is removed and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Append one line and sync it; call `mend_tail` first, both under the folder's lock."""
    with open(path, "ab") as file:
        file.write(line.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> tuple[list[bytes], bytes]:
    """The lines of a file that have their newline, and the piece after the last one; nothing where there is no file."""
    *lines, tail = (path.read_bytes() if path.exists() else b"").split(b"\n")
    return lines, tail


def mend_tail(path: Path) -> None:
    """Drop the piece of a line that a killed write left behind; a line counts once its newline is there."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
            os.fsync(file.fileno())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock (`.lock`) against other processes and threads; not to be nested."""
    import filelock

    try:
        with filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS):  # the system frees it when its holder dies
            yield
    except filelock.Timeout:
        raise RuntimeError(
            f"{folder}: another process has held this folder for {LOCK_SECONDS} s; wait for it, or stop it"
        ) from None


def list_files(folder: Path) -> list[Path]:
    """All files under a folder, sorted, but the temporary ones of `write_atomic` and the locks of `locked`."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock")
    return [file for file in found if not (file.name.startswith(".") and file.suffix == ".tmp")]


def sha256(path: Path) -> str:
    """The sha256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(obj: object, what: str, *, indent: int | None = None) -> str:
    """JSON text of plain values, numpy values, dataclasses and records; NaN is refused. `what` names it in errors."""
    try:
        return json.dumps(obj, ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: cannot be kept as JSON ({error}); use plain finite values") from None


def digest(obj: object, what: str) -> str:
    """The sha256 of an object's JSON text, as hex: equal for equal contents. As `to_json`."""
    return hashlib.sha256(to_json(obj, what).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(obj: Any) -> object:
    if isinstance(obj, BaseModel):
        return obj.model_dump(mode="json")
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return dataclasses.asdict(obj)
    if hasattr(obj, "tolist"):  # numpy and torch
        return obj.tolist()
    if isinstance(obj, Path):
        return obj.as_posix()
    raise TypeError(f"{type(obj).__name__} is no JSON value")


def read_json(path: Path) -> dict:
    """Read a file that holds one JSON object; anything else is one clear error."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: expected a JSON file, found none; the run is damaged, start a new one"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore the file, or start a new run") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(found).__name__}; restore the file")
    return found


def utc_now() -> str:
    """The time now, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the closest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known) or 'none'})"
