"""The risk register and a rollout's hand brake in a real JupyterLab: edit, hold, reload; nothing lost, nothing run."""

import datetime
import json
from pathlib import Path

import pytest
from governed import make_run
from hostile import HOSTILE
from lab import CHROMIUM, browser_page, open_lab, run_cell

from ftlib import risks

pytestmark = pytest.mark.browser

CELL = """
import json
from pathlib import Path
from IPython.display import display
from ftlib import risks
from ftlib.files import to_json, write_atomic
from ftlib.rollout import Guardrail, Plan
from ftlib.rollout_widgets import rollout_widget
from ftlib.serve import LocalBackend, Router
from ftlib.widgets import risk_widget
load = lambda name: risks.load_register(json.loads(Path(name).read_text(encoding="utf-8")))
register = risks.keep_edits(load("fresh.json"), load("risks.json") if Path("risks.json").exists() else [])
keep = lambda rows: write_atomic("risks.json", to_json([row.model_dump() for row in rows], "risks.json"))
same = LocalBackend(lambda chat, limit: "hello", model="m")
router = Router(Plan(guardrails=(Guardrail("failed"),)), baseline=same, candidate=same, log="log.jsonl")
display(risk_widget(register, on_change=keep), rollout_widget(router))
"""
GATE = "05-dpo.harmful_refused"
RUNS = " ".join(text[:200] for text in HOSTILE if "<" in text and "\n" not in text)  # what would run, in one line


def kept(folder: Path) -> dict:
    """The row on disk, in another process than the kernel."""
    return {row["id"]: row for row in json.loads((folder / "risks.json").read_text(encoding="utf-8"))}[GATE]


def by_hand(folder: Path) -> list[tuple]:
    """What was done to the rollout, by its log on disk."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(entry["do"], entry["why"]) for entry in entries if entry["kind"] == "manual"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_edit_hold_reload_go_on(tmp_path):
    from playwright.sync_api import expect

    fresh = risks.register(make_run(tmp_path / "run"), today=datetime.date(2027, 1, 4))
    fresh = [row.model_copy(update={"title": f"{row.title} {RUNS}"}) for row in fresh]
    (tmp_path / "fresh.json").write_text(json.dumps([row.model_dump() for row in fresh]), encoding="utf-8")
    with open_lab(tmp_path, CELL.strip()) as url, browser_page() as page:
        button = lambda name: page.get_by_role("button", name=name, exact=True)
        field = lambda name: page.get_by_label(name, exact=True)
        shown = lambda text: expect(page.get_by_text(text, exact=False).first).to_be_visible()
        run_cell(page, url)
        field("row").select_option(GATE)
        expect(field("status")).to_be_disabled()  # a gate's row follows the ledger
        for name, text in (("owner", "A. Sample"), ("mitigation", f"two lines\n{RUNS}"), ("expires", "soon")):
            field(name).fill(text)
        button("Keep this row").click()
        shown("Not kept. risk '05-dpo.harmful_refused': expires:")
        assert not (tmp_path / "risks.json").exists()
        field("expires").fill("2027-01-20")
        button("Keep this row").click()
        shown("Kept: 05-dpo.harmful_refused.")
        row = kept(tmp_path)
        assert (row["owner"], row["expires"], row["mitigation"]) == ("A. Sample", "2027-01-20", f"two lines\n{RUNS}")

        button("Hold").click()  # without a reason
        shown("Not done. ValueError: expected a reason in words")
        field("reason").last.fill(RUNS)
        button("Hold").click()
        shown("held by hand")
        assert by_hand(tmp_path) == [("hold", RUNS)]
        page.screenshot(path=tmp_path / "held.png", full_page=True)

        run_cell(page, url)  # reload the page, run the cell again: both go on from what is on disk
        shown("held by hand")
        expect(page.get_by_role("cell", name="A. Sample", exact=True)).to_be_visible()
        field("row").select_option(GATE)
        expect(field("mitigation")).to_have_value(f"two lines\n{RUNS}")
        for name, text in (("Go on", "looked: not ours"), ("Roll back", "it was ours")):
            field("reason").last.fill(text)
            button(name).click()
            shown(f"Done: {name.lower()}.")
        shown("candidate: 0% of users")
        assert page.evaluate("window.hacked === undefined && !document.title.includes('hacked')")
        assert page.evaluate("document.querySelectorAll('.jp-OutputArea script, .jp-OutputArea iframe').length") == 0
    assert [do for do, _ in by_hand(tmp_path)] == ["hold", "go_on", "roll_back"]
    assert kept(tmp_path)["owner"] == "A. Sample"
