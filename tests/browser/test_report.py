"""A report opens by file:// in a browser without a network, and its figures are drawn."""

import shutil
from dataclasses import make_dataclass

import numpy as np
import plotly.graph_objects as go
import pytest

from ftlib import evidence, plots
from ftlib.records import GateResult
from ftlib.runs import open_run

pytestmark = pytest.mark.browser
NASTY = "</script><script>alert(1)</script><b>&amp;\"'"
Profile = make_dataclass("Profile", ["name", "is_smoke", ("need_ram_mb", int, 1), ("need_disk_mb", int, 1)])
SMOKE = {"profile": Profile("smoke", True), "seed": 17, "model_id": "embedded"}


@pytest.fixture
def browser_page():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium here; .ci/run installs it")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser.new_page(viewport={"width": 1100, "height": 900})
        browser.close()


def make_run(folder):
    start = open_run("00_start_here", folder, **SMOKE)
    start.write_json("machine.json", {"CPU": "2 cores", "GPU": "none", "memory GB": 16})
    start.finish()
    run = open_run("02_sft", folder, **SMOKE)
    run.metric("sft.intent_accuracy", baseline=0.125, candidate=0.875, n=240, ci95=(0.68, 0.81))
    run.metric("sft.invented_facts", baseline=0.2, candidate=0.15, n=80, ci95=(-0.14, 0.04), higher_is_better=False)
    run.metric(
        "sft.reply_length", baseline=40, candidate=31, n=240, ci95=(-12, -6), unit="tokens", basis="rubric judge"
    )
    gate = {"notebook": "02_sft", "value": 0.01, "threshold": 0.02, "op": "<=", "n": 480, "ci95": (0.0, 0.03)}
    for name, verdict in (("dup_rate", "PASS"), ("leakage", "FAIL"), ("stops", "ABSTAIN")):
        run.gate(GateResult(id=name, verdict=verdict, note="" if verdict == "PASS" else "see quality.json", **gate))
    run.samples(
        "Replies", [{"prompt": f"Where is my tent? {NASTY}", "before": "I am a model.", "after": "On its way."}] * 2
    )
    loss = plots.lines(
        {"training": (list(range(50)), np.exp(-np.arange(50) / 20))}, "Does it learn?", "step", "loss (nats)"
    )
    run.figure(
        "loss",
        plots.mark_smoke(loss),
        "The loss falls and flattens; where it stays flat from the start, look at the mask.",
    )
    run.figure("bars", go.Figure(go.Bar(x=["zero-shot", NASTY], y=[0.1, 0.9])), f"A name from data is no code. {NASTY}")
    run.finish()
    (folder / "02_sft.ipynb").write_text("{}")
    return folder


def test_report_opens_offline_and_draws_every_figure(tmp_path, browser_page):
    path = evidence.build_report(make_run(tmp_path / "20260101-120000-smoke-s17"))
    said, asked = [], []
    browser_page.on("console", lambda message: said.append(message.text))
    browser_page.on("pageerror", lambda error: said.append(str(error)))
    browser_page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}") or dialog.dismiss())
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.goto(path.as_uri())
    browser_page.wait_for_selector(".main-svg")
    browser_page.wait_for_timeout(500)
    sizes = browser_page.eval_on_selector_all(
        ".figure",
        "boxes => boxes.map(box => { const r = box.querySelector('.main-svg').getBoundingClientRect(); "
        "return [r.width, r.height, box.querySelectorAll('.trace path').length]; })",
    )
    assert len(sizes) == 2
    for width, height, marks in sizes:
        assert width > 500 and height > 200 and marks > 0
    assert said == []
    assert [url for url in asked if not url.startswith(("file://", "data:", "blob:"))] == []
    wide = browser_page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0  # nothing hangs out to the right
    assert "smoke run" in browser_page.text_content("header")
    browser_page.screenshot(path=tmp_path / "report.png", full_page=True)
