"""The scorecard's form in a real JupyterLab: answer, weigh, sign, reload, go on; each change is on disk."""

import json
from pathlib import Path

import pytest
from lab import CHROMIUM, browser_page, open_lab, run_cell

from ftlib.criteria import CRITERIA, WEIGHTS
from ftlib.scorecard import Answers, recommend

pytestmark = pytest.mark.browser

CELL = """
from IPython.display import display
from ftlib.files import to_json, write_atomic
from ftlib.scorecard import Card, draft, read_draft
from ftlib.widgets import scorecard_widget
start = Card()
keep = lambda now: write_atomic("draft.json", to_json(draft(start, now), "draft"))
display(scorecard_widget(read_draft("draft.json", start), on_change=keep))
"""


def kept(folder: Path) -> dict:
    """What is on disk, in another process than the kernel."""
    return json.loads((folder / "draft.json").read_text(encoding="utf-8"))["now"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_answer_weigh_sign_reload_go_on(tmp_path):
    from playwright.sync_api import expect

    with open_lab(tmp_path, CELL.strip()) as url, browser_page() as page:
        run_cell(page, url)
        verdict = page.locator(".jp-OutputArea div[aria-live=polite] p").first
        expect(verdict).to_have_text("SFT → DPO → RFT")
        expect(page.get_by_text("Not signed.")).to_be_visible()
        page.get_by_label("reward computable").select_option("no")
        expect(verdict).to_have_text("SFT → DPO")
        expect(page.get_by_text("no_computable_reward")).to_be_visible()
        assert kept(tmp_path)["answers"]["reward_computable"] == "no"

        weight = page.locator(".noUi-handle").nth(list(CRITERIA).index("horizon"))
        readout = page.locator(".widget-readout").nth(list(CRITERIA).index("horizon"))
        of_rft = page.locator(".jp-OutputArea tr", has=page.get_by_text("RFT", exact=True)).locator("td").last
        before, after = (
            f"{recommend(Answers(reward_computable='no'), weights=WEIGHTS | {'horizon': w}).scores['rft']:.0f}"
            for w in (2.0, 3.0)
        )
        assert before != after
        expect(of_rft).to_have_text(before)
        weight.focus()
        weight.press("ArrowRight")
        weight.press("ArrowRight")  # from 2.0 by two steps of 0.5
        expect(readout).to_have_text("3.00")
        expect(of_rft).to_have_text(after)
        assert kept(tmp_path)["weights"] == WEIGHTS | {"horizon": 3.0}

        for field, text in (("name", "A. Sample"), ("role", "owner")):
            page.get_by_label(field, exact=True).fill(text)
            page.get_by_label(field, exact=True).press("Tab")
        page.get_by_label("date", exact=True).fill("2027-01-31")
        page.get_by_label("date", exact=True).press("Tab")
        expect(page.get_by_text("Signed: A. Sample, owner, 2027-01-31.")).to_be_visible()
        page.screenshot(path=tmp_path / "signed.png", full_page=True)
        assert kept(tmp_path)["sign_off"] == {"name": "A. Sample", "role": "owner", "date": "2027-01-31"}

        run_cell(page, url)  # reload the page, run the cell again: the form goes on from the draft
        expect(verdict).to_have_text("SFT → DPO")
        expect(page.get_by_text("Signed: A. Sample, owner, 2027-01-31.")).to_be_visible()
        expect(readout).to_have_text("3.00")
        assert kept(tmp_path)["weights"]["horizon"] == 3.0
        page.get_by_label("safety class").select_option("low")  # the signature was for other answers
        expect(page.get_by_text("Not signed: date missing.")).to_be_visible()
        assert kept(tmp_path)["sign_off"]["date"] == ""
