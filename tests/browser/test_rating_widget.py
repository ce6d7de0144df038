"""The rating widget in a real JupyterLab and a real Chromium: click, undo, reload, go on; votes are in the store."""

from pathlib import Path

import pytest
from lab import CHROMIUM, FLAGS, open_lab, run_cell

from ftlib.store import open_store

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror='document.title=`hacked`'><script>document.title='hacked'</script><b>not bold</b>"

CELL = """
from IPython.display import display
from ftlib.ratings import RatingSession
from ftlib.records import Candidate
from ftlib.store import open_store
from ftlib.rater_widgets import rating_widget
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
    """The URL of a notebook that holds the cell above."""
    with open_lab(tmp_path, f"hostile = {HOSTILE!r}\n{CELL.strip()}") as url:
        yield url


def choices(folder: Path) -> list[str]:
    """What the store holds, read by another process than the kernel, in terms of the screen."""
    store = open_store(folder / "ratings.db")
    votes = store.ratings()
    store.close()
    return [("left" if vote.choice == vote.left else "right") if vote.choice in "AB" else vote.choice for vote in votes]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_rate_undo_reload_go_on(lab, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(25_000)
        expect.set_options(timeout=25_000)

        def press(name: str) -> None:
            page.wait_for_timeout(400)  # a person does not click within 0.3 s; that would be a double click
            page.get_by_role("button", name=name, exact=True).click()

        run_cell(page, lab)
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

        run_cell(page, lab)  # reload the page, run the cell again: the session goes on from the store
        expect(page.get_by_text("1 of 4 rated")).to_be_visible()
        for done, name in enumerate(("B is better", "Both bad", "Skip"), start=2):
            press(name)
            expect(page.get_by_text(f"{done} of 4 rated")).to_be_visible()
        expect(page.get_by_text("All 4 items are rated.")).to_be_visible()
        page.screenshot(path=tmp_path / "last.png")
        assert choices(tmp_path) == ["left", "right", "both_bad", "skip"]
        assert "hacked" not in page.title()
        browser.close()
