"""The raters' widgets in a real JupyterLab and Chromium: by mouse, by keys, undo, reload, restart, hostile texts."""

import json
import urllib.request
from pathlib import Path

import pytest
from hostile import HOSTILE
from lab import CHROMIUM, browser_page, open_lab, run_cell

from ftlib.store import open_store

pytestmark = pytest.mark.browser

CELL = """
import json
from pathlib import Path
from IPython.display import display
from ftlib.rater_widgets import rating_widget, team_widget
from ftlib.ratings import RatingSession
from ftlib.records import Candidate
from ftlib.store import open_store
from ftlib.team import team_view
texts = json.loads(Path("texts.json").read_text())
items = [
    Candidate(id=f"c{n}", prompt_id=f"p{n}", prompt=f"Message {n}: {text}", kind="production", cluster="k",
              answer_a=f"First answer {n}. {text}", source_a="greedy",
              answer_b=f"Second answer {n}. {text}", source_b="sampled")
    for n, text in enumerate(texts)
]
store = open_store("ratings.db")
session = RatingSession(store, "ann", items, seed=17)
display(rating_widget(session, double_click_seconds=0.05))
display(team_widget(lambda: team_view(store, overlap=1), every_seconds=0.5, minutes=1))
"""
TEXTS = [*HOSTILE, *("Where is my parcel? " * 40 for _ in range(60 - len(HOSTILE)))]
# What a page may not show after a text was shown: something that ran, hangs out to the right, or came from a text.
LOOK = """() => {
  const out = document.querySelector('.jp-OutputArea'), boxes = [...out.querySelectorAll('div[dir=auto]')];
  const of = box => box.getBoundingClientRect();
  return {
    ran: window.hacked === undefined && !document.title.includes('hacked') ? '' : 'ran',
    boxes: boxes.length,
    right: Math.max(...boxes.map(box => of(box).right)),
    tall: Math.max(...boxes.map(box => of(box).height)),
    beside: of(boxes[1]).right <= of(boxes[2]).left && Math.abs(of(boxes[1]).top - of(boxes[2]).top) < 2,
    wide: out.scrollWidth - out.clientWidth,
    foreign: boxes.map(box => box.querySelectorAll('*:not(span):not(i):not(u)').length).reduce((a, b) => a + b),
  }
}"""


@pytest.fixture
def lab(tmp_path):
    """The URL of a notebook that holds the cell above."""
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    with open_lab(tmp_path, CELL.strip()) as url:
        yield url


def choices(folder: Path) -> list[str]:
    """What the store holds, read by another process than the kernel, in terms of the screen."""
    store = open_store(folder / "ratings.db")
    votes = store.ratings()
    store.close()
    return [("left" if vote.choice == vote.left else "right") if vote.choice in "AB" else vote.choice for vote in votes]


def restart_kernel(url: str) -> None:
    """As the menu does, by the server's own interface."""
    base, token = url.split("lab/tree")[0], {"Authorization": "token test-token"}
    with urllib.request.urlopen(urllib.request.Request(f"{base}api/kernels", headers=token)) as answer:
        (kernel,) = json.load(answer)
    urllib.request.urlopen(
        urllib.request.Request(f"{base}api/kernels/{kernel['id']}/restart", headers=token, method="POST")
    ).close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_sixty_items_by_mouse_and_by_keys(lab, tmp_path):
    """Thirty votes by mouse, thirty by keys, over thirty hostile texts and thirty plain ones."""
    from playwright.sync_api import expect

    with browser_page() as page:
        asked, dialogs = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: dialogs.append(dialog.type) or dialog.accept())
        seen = set()

        def shows(done: int) -> None:
            """So many are rated; the item on show is inert and inside the window."""
            expect(page.get_by_text(f"{done} of 60 rated")).to_be_visible()
            if done == 60:
                return
            prompt = page.locator(".jp-OutputArea div[dir=auto]").first
            seen.add(int(prompt.inner_text()[8:11].split(":")[0]))
            found = page.evaluate(LOOK)
            assert (found["ran"], found["boxes"], found["foreign"], found["wide"]) == ("", 3, 0, 0), (seen, found)
            assert found["beside"] and found["right"] <= 1280 and found["tall"] < 340, (seen, found)

        def press(name: str) -> None:
            page.wait_for_timeout(60)  # less than that is a double click here
            page.get_by_role("button", name=name, exact=True).click()

        def key(letters: str) -> None:
            for letter in letters:
                page.wait_for_timeout(60)
                page.get_by_label("Keys").press_sequentially(letter)

        run_cell(page, lab)
        shows(0)
        page.screenshot(path=tmp_path / "first.png")
        mouse = ["A is better", "Tie", "B is better", "Both bad"] * 8
        for done, name in enumerate(mouse[:15], start=1):
            press(name)
            shows(done)
        press("Undo")
        shows(14)
        assert len(choices(tmp_path)) == 14

        run_cell(page, lab)  # reload the page, run the cell again: the session goes on from the store
        shows(14)
        press("Skip")
        expect(page.get_by_text("expected a reason for the skip")).to_be_visible()
        page.locator(".jp-OutputArea select").select_option("3 I do not want to read this")
        page.get_by_role("button", name="Show differences").click()
        expect(page.locator(".jp-OutputArea div[dir=auto] u").first).to_be_visible()
        page.screenshot(path=tmp_path / "differences.png")
        page.get_by_role("button", name="Show differences").click()
        press("Skip")
        shows(15)
        for done, name in enumerate(mouse[:15], start=16):
            press(name)
            shows(done)

        by_key = {"a": "left", "t": "tie", "b": "right", "x": "both_bad", "2": "skip"}
        keys = list(by_key) * 6
        for done, letter in enumerate(keys[:15], start=31):
            key(letter)
            shows(done)
        key("u")
        shows(44)
        restart_kernel(lab)
        run_cell(page, lab)
        shows(44)
        key("hhm")
        expect(page.locator(".jp-OutputArea button.mod-active", has_text="same")).to_be_visible()
        key(keys[14])
        shows(45)

        refreshed = page.get_by_text("items have 1 votes")
        expect(refreshed).to_contain_text("44 of 60")
        press("Refresh")
        expect(refreshed).to_contain_text("45 of 60")
        page.locator(".jp-OutputArea .widget-play button").first.click()  # the browser's clock
        for done, letter in enumerate(keys[15:], start=46):
            key(letter)
            shows(done)
        expect(page.get_by_text("All 60 items are rated.")).to_be_visible()
        expect(refreshed).to_contain_text("60 of 60")
        page.screenshot(path=tmp_path / "last.png")

        named = {"A is better": "left", "B is better": "right", "Tie": "tie", "Both bad": "both_bad"}
        wanted = [named[name] for name in mouse[:14]] + ["skip"] + [named[name] for name in mouse[:15]]
        assert choices(tmp_path) == wanted + [by_key[letter] for letter in keys]
        assert seen == set(range(60))
        assert set(dialogs) <= {"beforeunload"}  # JupyterLab's own, before a reload
        assert [url for url in asked if "127.0.0.1" not in url and "localhost" not in url
                                  and not url.startswith(("data:", "blob:"))] == []  # fmt: skip
