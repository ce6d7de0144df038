"""A PostgreSQL server for the length of a block: for tests and benchmarks, from the packages of the system.

It listens on a socket in a temporary directory only, and trusts whoever can reach that. It runs as the user `postgres`,
or `nobody`, when we are root, because PostgreSQL refuses to run as root.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNERS = ("postgres", "nobody")
UNSAFE_AND_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
SECONDS = 60


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, of the newest version that is installed; None without a server."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    found.sort(key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.parent.name)])
    on_path = shutil.which("initdb")
    return found[-1] if found else Path(on_path).parent if on_path else None


@contextmanager
def server(*, durable: bool) -> Iterator[str]:
    """Start a server, and stop it after the block.

    Args:
        durable: commits reach the disk, as a team's server does it; False is faster.

    Yields:
        An SQLAlchemy URL whose database is to be filled in: `url.format(database="postgres")`.

    Raises:
        FileNotFoundError: no server is installed.
        RuntimeError: it does not start; what it said.
    """
    folder = programs()
    if folder is None:
        raise FileNotFoundError("expected initdb of PostgreSQL, found none; on Debian: apt-get install postgresql")
    home = Path(tempfile.mkdtemp(prefix="ftlib-pg-"))
    try:
        owner = _owner(home)
        settings = [f"unix_socket_directories={home}", "listen_addresses=", "max_connections=100"]
        settings += [] if durable else UNSAFE_AND_FAST
        start = ["-D", home / "data", "-l", home / "log", "-w", "-t", str(SECONDS)]
        start += ["-o", " ".join(f"-c {setting}" for setting in settings), "start"]
        _run([folder / "initdb", "-D", home / "data", "-U", "team", "-A", "trust", "-E", "UTF8", "-N"], home, owner)
        _run([folder / "pg_ctl", *start], home, owner)
        try:
            yield f"postgresql+psycopg://team@/{{database}}?host={home}"
        finally:
            _run([folder / "pg_ctl", "-D", home / "data", "-m", "immediate", "-w", "stop"], home, owner)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _owner(home: Path) -> dict:
    """Who runs the server, as options of `subprocess`; nothing where we are not root. The folder becomes theirs."""
    if os.name != "posix" or os.geteuid() != 0:
        return {}
    import pwd  # not on Windows

    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = next((known[name] for name in OWNERS if name in known), None)
    if user is None:
        raise RuntimeError(f"PostgreSQL does not run as root; expected one of the users {OWNERS}, found none")
    os.chown(home, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _run(command: list, home: Path, owner: dict) -> None:
    # Output to a file: a pipe would stay open as long as the server runs.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            cwd=home, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, timeout=2 * SECONDS, check=False, **owner,
        )  # fmt: skip
        if done.returncode:
            said.seek(0)
            log = home / "log"
            words = said.read().decode(errors="replace") + (log.read_text(errors="replace") if log.exists() else "")
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {words[-2000:]}")
