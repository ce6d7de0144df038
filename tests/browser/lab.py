"""A JupyterLab with a notebook of one cell, and how to run that cell from a browser; for the tests of the widgets."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextlib.contextmanager
def open_lab(tmp_path: Path, source: str) -> Iterator[str]:
    """JupyterLab on a free port with a token, its settings kept out of the user's home; yields the URL of a notebook.

    The notebook has one cell, `source`.
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "one.ipynb")
    settings = tmp_path / "home" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    settings.write_text(json.dumps(quiet), encoding="utf-8")
    runtime = tmp_path / "runtime"
    home = {name: str(tmp_path / "home") for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **home, "JUPYTER_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT)}
    options = {
        "ServerApp.port": 0,
        "ServerApp.root_dir": tmp_path,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": "test-token",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", *(f"--{k}={v}" for k, v in options.items())]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"{_address(server, runtime, tmp_path / 'lab.log')}lab/tree/one.ipynb?token=test-token"
    finally:
        server.terminate()
        server.wait(20)


@contextlib.contextmanager
def browser_page() -> Iterator:
    """A page of 1280 x 900 in headless chromium; it and what is expected of it may take 25 s."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(25_000)
        expect.set_options(timeout=25_000)
        yield page
        browser.close()


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert server.poll() is None, f"JupyterLab ended:\n{log.read_text()[-2000:]}"
        for file in runtime.glob("jpserver-*.json"):
            try:
                url = json.loads(file.read_text())["url"]
                urllib.request.urlopen(f"{url}api?token=test-token", timeout=5)
            except (ValueError, OSError):
                continue  # half written, or not listening yet
            return url
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start in 40 s:\n{log.read_text()[-2000:]}")


def run_cell(page, url: str) -> None:
    """Load the notebook, which is also what a reload of the page does, and run its cell."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    page.goto(url)
    page.get_by_text("| Idle").wait_for()
    ran = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    for _ in range(6):  # JupyterLab drops what is asked before the kernel is connected
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        with contextlib.suppress(PlaywrightTimeout):
            ran.first.wait_for(timeout=3_000)
            return
    raise AssertionError("the cell did not run")
