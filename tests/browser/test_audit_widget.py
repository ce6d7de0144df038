"""The spot audit in a real JupyterLab: twenty rows by button and by keys, a reload half way, and no verdict is lost."""

import json
from pathlib import Path

import pytest
from hostile import HOSTILE
from lab import CHROMIUM, browser_page, open_lab, run_cell

pytestmark = pytest.mark.browser

CELL = """
import json
from pathlib import Path
from ftlib.audit import AuditLog, AuditSession
from ftlib.data_gates import Item
from ftlib.widgets import audit_widget
texts = json.loads(Path("texts.json").read_text())
items = [Item(id=f"row-{n}", text=text, answer=f"answer {n}") for n, text in enumerate(texts)]
audit_widget(AuditSession(AuditLog("verdicts.jsonl"), "ann", items, seed=1))
"""
ROWS = 20


def stored(folder: Path) -> list[dict]:
    """What is on disk, in another process than the kernel."""
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_audit_twenty_rows_with_a_reload(tmp_path):
    from playwright.sync_api import expect

    (tmp_path / "texts.json").write_text(json.dumps([text[:300] for text in HOSTILE[:ROWS]]))
    with open_lab(tmp_path, CELL.strip()) as url, browser_page() as page:
        button = lambda name: page.get_by_role("button", name=name, exact=True)
        shows = lambda done: expect(page.get_by_text(f"{done} of {ROWS} judged")).to_be_visible()
        run_cell(page, url)
        shows(0)
        button("Wrong").click()  # without a reason
        expect(page.get_by_text("Not stored; the row stays.", exact=False)).to_be_visible()
        page.get_by_placeholder("Why?", exact=False).fill("The policy says 30 days.")
        button("Wrong").click()
        shows(1)
        for done in range(2, 11):
            page.wait_for_timeout(320)  # as a person: what comes sooner counts as a double click
            button("Correct").click()
            shows(done)
        assert len(stored(tmp_path)) == 10
        page.screenshot(path=tmp_path / "audit.png", full_page=True)

        run_cell(page, url)  # reload the page, run the cell again: it goes on at row 11
        shows(10)
        for done in range(11, ROWS + 1):
            page.wait_for_timeout(320)
            button("Correct").focus()
            page.keyboard.press("Enter" if done % 2 else "Space")
            if done < ROWS:
                shows(done)
        expect(page.get_by_text(f"All {ROWS} rows are judged.", exact=False)).to_be_visible()
        assert page.evaluate("window.hacked === undefined && !document.title.includes('hacked')")

    verdicts = stored(tmp_path)
    assert len(verdicts) == ROWS and len({row["row_id"] for row in verdicts}) == ROWS
    assert [row["verdict"] for row in verdicts] == ["wrong"] + ["correct"] * (ROWS - 1)
    assert verdicts[0]["reason"] == "The policy says 30 days." and not any(row["simulated"] for row in verdicts)
