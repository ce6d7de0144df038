"""The viewer of rollouts in a real JupyterLab: step, see what was earned, and nothing that a customer wrote runs."""

import json

import pytest
from hostile import HOSTILE
from lab import CHROMIUM, browser_page, open_lab, run_cell

pytestmark = pytest.mark.browser

CELL = """
import json
from dataclasses import replace
from pathlib import Path
from ftlib import desk
from ftlib.replay_widgets import replay_widget
from ftlib.replays import Replay
from ftlib.reward_attacks import honest_work
texts = json.loads(Path("texts.json").read_text())
cases = [replace(case, message=text) for case, text in zip(desk.make_cases(len(texts), seed=1), texts)]
honest = [desk.play(case, honest_work(case)) for case in cases]
echo = [desk.play(case, [case.message]) for case in cases]
replay_widget(Replay({"honest": tuple(zip(*honest)), "echo": tuple(zip(*echo))}))
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_step_through_hostile_cases(tmp_path):
    from playwright.sync_api import expect

    texts = ["\n".join(text[:200] for text in HOSTILE[start::4]) for start in range(4)]  # few clicks, all of them
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    with open_lab(tmp_path, CELL.strip()) as url, browser_page() as page:
        run_cell(page, url)
        expect(page.get_by_text("line 0 of 5")).to_be_visible()
        for done in range(1, 5):
            page.get_by_role("button", name="Next", exact=True).click()
            expect(page.get_by_text(f"line {done} of 5")).to_be_visible()
        expect(page.get_by_text("success, 4 of 5 lines", exact=False)).to_be_visible()
        page.screenshot(path=tmp_path / "viewer.png")
        for number in range(1, len(texts)):
            page.get_by_label("case", exact=True).select_option(index=number)
            expect(page.get_by_text("line 0 of 5")).to_be_visible()
            page.get_by_role("button", name="End", exact=True).click()
            expect(page.get_by_text("line 5 of 5")).to_be_visible()
            assert page.evaluate("window.hacked === undefined && !document.title.includes('hacked')"), texts[number]
