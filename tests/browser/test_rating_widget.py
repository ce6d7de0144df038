"""The rating widget in a real JupyterLab and a real Chromium: click, undo, reload, go on; votes are in the store."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from ftlib.store import open_store

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror='document.title=`hacked`'><script>document.title='hacked'</script><b>not bold</b>"

CELL = """
from IPython.display import display
from ftlib.ratings import RatingSession
from ftlib.records import Candidate
from ftlib.store import open_store
from ftlib.widgets import rating_widget
items = [
    Candidate(id=f"c{n}", prompt_id=f"p{n}", prompt=f"Message {n}: where is my parcel? {hostile}", kind="production",
              answer_a=f"First answer {n}. " + "It is on its way. " * 60, source_a="greedy",
              answer_b=f"Second answer {n}.\\n\\n{hostile}\\u202e", source_b="sampled", cluster="k")
    for n in range(4)
]
session = RatingSession(open_store("ratings.db"), "ann", items, seed=17)
display(rating_widget(session))
"""


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a free port with a token, its settings kept out of the user's home; yields the notebook's URL."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"hostile = {HOSTILE!r}\n{CELL.strip()}")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "rate.ipynb")
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
        yield f"{_address(server, runtime, tmp_path / 'lab.log')}lab/tree/rate.ipynb?token=test-token"
    finally:
        server.terminate()
        server.wait(20)


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


def choices(folder: Path) -> list[str]:
    """What the store holds, read by another process than the kernel, in terms of the screen."""
    store = open_store(folder / "ratings.db")
    votes = store.ratings()
    store.close()
    return [("left" if vote.choice == vote.left else "right") if vote.choice in "AB" else vote.choice for vote in votes]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_rate_undo_reload_go_on(lab, tmp_path):
    from playwright.sync_api import TimeoutError as PlaywrightTimeout
    from playwright.sync_api import expect, sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(25_000)
        expect.set_options(timeout=25_000)

        def run_cell() -> None:
            page.goto(lab)
            page.get_by_text("| Idle").wait_for()
            ran = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
            for _ in range(6):  # JupyterLab drops what is asked before the kernel is connected
                page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
                page.keyboard.press("Shift+Enter")
                with contextlib.suppress(PlaywrightTimeout):
                    ran.first.wait_for(timeout=3_000)
                    return
            raise AssertionError("the cell did not run")

        def press(name: str) -> None:
            page.wait_for_timeout(400)  # a person does not click within 0.3 s; that would be a double click
            page.get_by_role("button", name=name, exact=True).click()

        run_cell()
        expect(page.get_by_text("0 of 4 rated")).to_be_visible()
        page.screenshot(path=tmp_path / "first.png")
        boxes_of_text = page.locator(".jp-OutputArea .widget-html div[dir=auto]")  # customer, left, right
        left, right = boxes_of_text.nth(1), boxes_of_text.nth(2)
        assert {left.inner_text().split()[0], right.inner_text().split()[0]} == {"First", "Second"}
        boxes = [left.bounding_box(), right.bounding_box()]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]  # side by side
        assert boxes[1]["x"] + boxes[1]["width"] <= 1280  # and inside the window
        assert boxes_of_text.locator("img, script, b").count() == 0
        expect(page.get_by_text("[U+202E]").first).to_be_visible()

        press("A is better")
        expect(page.get_by_text("1 of 4 rated")).to_be_visible()
        assert choices(tmp_path) == ["left"]
        press("Tie")
        expect(page.get_by_text("2 of 4 rated")).to_be_visible()
        assert choices(tmp_path) == ["left", "tie"]
        press("Undo")
        expect(page.get_by_text("1 of 4 rated")).to_be_visible()
        assert choices(tmp_path) == ["left"]

        run_cell()  # reload the page, run the cell again: the session goes on from the store
        expect(page.get_by_text("1 of 4 rated")).to_be_visible()
        for done, name in enumerate(("B is better", "Both bad", "Skip"), start=2):
            press(name)
            expect(page.get_by_text(f"{done} of 4 rated")).to_be_visible()
        expect(page.get_by_text("All 4 items are rated.")).to_be_visible()
        page.screenshot(path=tmp_path / "last.png")
        assert choices(tmp_path) == ["left", "right", "both_bad", "skip"]
        assert "hacked" not in page.title()
        browser.close()
