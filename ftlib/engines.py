"""Servers that a notebook starts and stops: a model behind `transformers serve` or `vllm serve`, and any app of ours.

A server that does not come up says why, with the end of what it printed. Whatever ends the block ends the server, too.

Left out on purpose: servers on other machines (give their address to `serve.HttpBackend`), and restarts: a model
server that dies costs the candidate its share of traffic, which is what the router is for.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

IN_PROCESS, ENGINES = "in-process", ("transformers", "vllm")


def program(engine: str) -> Path | None:
    """The program of an engine, beside this Python; None for "in-process", which needs none.

    Raises:
        ValueError: no such engine.
        FileNotFoundError: it is not installed here.
    """
    if engine == IN_PROCESS:
        return None
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {[IN_PROCESS, *ENGINES]}, got {engine!r}")
    found = Path(sys.executable).parent / engine
    if not found.is_file():
        raise FileNotFoundError(
            f"engine={engine!r}: expected the program {engine!r} beside this Python ({found.parent}), found none; "
            f"install it (pip install {engine}{', which wants a GPU' if engine == 'vllm' else ''}) or take "
            f"engine={IN_PROCESS!r}"
        )
    return found


@contextlib.contextmanager
def model_server(
    model: str | Path, *, engine: str = "transformers", port: int = 0, wait_s: float = 600
) -> Iterator[str]:
    """Start `transformers serve` or `vllm serve` on a model folder, and stop it after the block.

    Args:
        wait_s: how long it may take to come up; one that ends before is noticed at once.

    Yields:
        Its address, up to and with /v1. The model's name there is `str(model)`.

    Raises:
        ValueError, FileNotFoundError: as `program`; or "in-process", which is no server.
        RuntimeError: the server ended, or was not up in time; with the end of what it said.
    """
    import tempfile

    import httpx

    serve = program(engine)
    if serve is None:
        raise ValueError(f"engine: expected one of {list(ENGINES)} for a server, got {engine!r}")
    port = port or free_port()
    command = [serve, "serve", model, "--host", "127.0.0.1", "--port", port]
    address = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(f"{address}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            list(map(str, command)), stdout=said, stderr=subprocess.STDOUT, env=_environment(model)
        )
        try:
            _wait(up, wait_s, f"{engine} serve did not come up", alive=lambda: process.poll() is None, said=said)
            yield f"{address}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def listening(asgi: Any, *, port: int = 0) -> Iterator[str]:
    """Serve an app from a thread of this process while the block runs; yields its address.

    Raises:
        RuntimeError: it does not come up, most often because the port is taken.
    """
    import uvicorn

    port = port or free_port()
    server = uvicorn.Server(uvicorn.Config(asgi, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        _wait(lambda: server.started, 15, f"nothing listens on port {port}; is it taken?", alive=thread.is_alive)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=15)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _environment(model: str | Path) -> dict[str, str]:
    """For a server: no look for newer versions at each start; and a folder on disk needs no hub."""
    offline = {"HF_HUB_OFFLINE": "1"} if Path(model).is_dir() else {}
    return {**os.environ, "HF_HUB_DISABLE_UPDATE_CHECK": "1", **offline}


def _wait(
    ready: Callable[[], bool], seconds: float, message: str, *, alive: Callable[[], bool], said: Any = None
) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if not alive() or time.monotonic() > until:
            if said is not None:
                said.seek(0)
                message += f": {said.read()[-800:]}"
            raise RuntimeError(message)
        time.sleep(0.05)
