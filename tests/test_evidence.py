"""The report of a hand-made run: its words, its escaping, and `verify`."""

import json
import re
from dataclasses import make_dataclass
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from ftlib import evidence
from ftlib.records import GateResult
from ftlib.runs import open_run
from ftlib.summary import gate_rows, load_summary, metric_rows, metric_verdict, notebook_rows, text_table

Profile = make_dataclass("Profile", ["name", "is_smoke", ("need_ram_mb", int, 1), ("need_disk_mb", int, 1)])
NASTY = "</script><script>alert(1)</script><b>&amp;\"'"


def open_notebook(folder, notebook, profile="cpu"):
    return open_run(notebook, folder, profile=Profile(profile, profile == "smoke"), seed=17, model_id="embedded")


def make_run(folder, profile="cpu"):
    start = open_notebook(folder, "00_start_here", profile)
    start.write_json("machine.json", {"CPU cores": 2, "GPU": "none"})
    start.finish()
    run = open_notebook(folder, "02_sft", profile)
    run.metric("sft.intent_accuracy", baseline=0.125, candidate=0.875, n=240, ci95=(0.68, 0.81))
    run.metric("sft.mean_length", baseline=40, candidate=31, n=240, ci95=(-12, 2), unit="tokens", basis=NASTY)
    run.gate(GateResult(id="dup_rate", notebook="02_sft", value=0.01, threshold=0.02, op="<=", n=480, ci95=None,
                        verdict="PASS", note=NASTY))  # fmt: skip
    run.samples(f"Replies {NASTY}", [{"prompt": f"{i} {NASTY}", "before": "Yes", "after": i} for i in range(20)])
    figure = go.Figure(go.Scatter(x=[1, 2, 3], y=[3.0, 2.0, 1.5], name=NASTY))
    run.figure("loss", figure.update_layout(title="Does it learn?"), f"The loss falls. {NASTY}")
    run.figure("bars", go.Figure(go.Bar(x=["a"], y=[1])), "A second figure.")
    run.finish()
    (folder / "02_sft.ipynb").write_text("{}")
    return folder


class Reader(HTMLParser):
    """Collects visible text and what the page would ask the network for."""

    def __init__(self):
        super().__init__()
        self.text, self.scripts, self.links, self.asked, self._in = "", [], [], [], None

    def handle_starttag(self, tag, attrs):
        attrs, self._in = dict(attrs), tag
        if tag == "script":
            self.scripts.append(attrs.get("type", ""))
        if tag == "a":
            self.links.append(attrs["href"])
        self.asked += [value for name, value in attrs.items() if name in ("src", "srcset", "action", "data")]
        self.asked += [attrs["href"]] if tag == "link" else []

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in not in ("script", "style"):
            self.text += data


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_report_shows_everything_once_and_escaped(tmp_path):
    path = evidence.build_report(make_run(tmp_path / "r1"))
    page = read(path)
    assert path == tmp_path / "r1/report.html"
    for text in ("12.5 %", "87.5 %", "+75.0 [+68.0, +81.0] points", "-9 [-12, +2] tokens", "no clear change", "PASS"):
        assert text in page.text
    assert f"The loss falls. {NASTY}" in page.text and f"Replies {NASTY}" in page.text
    assert f"11 {NASTY}" in page.text and f"12 {NASTY}" not in page.text and "sft, 12 of 20" in page.text
    # Two figures as data, plotly.js once, and the lines that draw: no script came from the texts.
    assert page.scripts == ["application/json", "application/json", "", ""]
    assert path.read_text().count("plotly.js v") == 1
    assert page.asked == []
    assert [link for link in page.links if not link.startswith("#")] == ["02_sft.ipynb"]
    assert "ABSTAIN is no pass" in page.text and "an approval that no person gave" in page.text
    assert "CPU cores" in page.text and "transformers" in page.text
    assert "smoke run" not in page.text and "Not finished" not in page.text


def test_figures_come_in_the_order_they_were_made_and_whole(tmp_path):
    text = evidence.build_report(make_run(tmp_path / "r1")).read_text()
    data = [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)]
    assert [figure["data"][0]["type"] for figure in data] == ["scatter", "bar"]
    assert data[0]["data"][0]["name"] == NASTY
    assert text.index("The loss falls.") < text.index("A second figure.")


def test_smoke_and_unfinished_say_so(tmp_path):
    run = make_run(tmp_path / "r1", profile="smoke")
    open_notebook(run, "04_dpo_qlora", "smoke").write_json("x.json", {})
    page = read(evidence.build_report(run))
    assert "This is a smoke run" in page.text and "Not finished: 04_dpo_qlora." in page.text
    assert "no evidence" in page.text and "better" not in page.text and "PASS (no evidence)" in page.text


def test_empty_run_and_damaged_figure_still_have_a_report(tmp_path):
    run = open_notebook(tmp_path / "r1", "02_sft")
    assert "No number has been measured yet." in read(evidence.build_report(run.path)).text
    figure = run.stage / "figures/broken.json"
    figure.parent.mkdir()
    figure.write_text("{")
    page = read(evidence.build_report(run.path))
    assert "This figure's file cannot be read." in page.text and "sft/broken" in page.text


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run folder with run\.json, found none"):
        evidence.build_report(tmp_path)


def test_verify_names_every_fault(tmp_path):
    run = make_run(tmp_path / "r1")
    assert evidence.verify_run(run) == []
    stage = run / "artifacts/sft"
    (stage / "checkpoints").mkdir()
    (stage / "checkpoints/step-1").write_text("not counted")
    assert evidence.verify_run(run) == []
    (stage / "samples.json").write_text("[]")
    (stage / "figures/bars.json").unlink()
    (stage / "extra.txt").write_text("x")
    (run / "artifacts/start/COMPLETE").unlink()
    ledger = run / "gates.jsonl"
    ledger.write_text(ledger.read_text().replace('"value": 0.01', '"value": 0.001'))
    faults = "\n".join(evidence.verify_run(run))
    assert len(faults.splitlines()) == 5
    for words in (
        r"gates\.jsonl line 1: the hash chain breaks here",
        r"samples\.json: changed since 02_sft",
        r"bars\.json: gone since 02_sft",
        r"extra\.txt: added since 02_sft",
        r"start: 00_start_here is complete by summary\.json, but its marker or manifest is gone",
    ):
        assert re.search(words, faults)


@pytest.mark.parametrize(
    ("ci95", "higher", "verdict"),
    [
        ((0.1, 0.2), True, "better"),
        ((-0.2, -0.1), True, "worse"),
        ((-0.2, -0.1), False, "better"),
        ((0.1, 0.2), False, "worse"),
        ((-0.1, 0.2), True, "no clear change"),
        ((0.0, 0.2), True, "no clear change"),
        (None, True, "no interval"),
    ],
)
def test_verdict_of_a_metric(ci95, higher, verdict):
    assert metric_verdict({"ci95": ci95, "higher_is_better": higher}) == verdict


def test_rows_as_text(tmp_path):
    summary = load_summary(make_run(tmp_path / "r1"))
    assert [row["change [95 %]"] for row in metric_rows(summary)] == [
        "+75.0 [+68.0, +81.0] points",
        "-9 [-12, +2] tokens",
    ]
    (gate,) = gate_rows(summary | {"gates": [summary["gates"][0] | {"verdict": "FAIL", "waived": "known"}]})
    assert (gate["value"], gate["needed"], gate["verdict"], gate["note"]) == (
        "0.01", "<= 0.02", "FAIL (waived)", "waived: known",
    )  # fmt: skip
    assert [row["notebook"] for row in notebook_rows(summary)] == ["00_start_here", "02_sft"]
    assert text_table([{"a": "1", "b": "", "c": "x"}, {"a": "222", "b": "", "c": "y"}]) == [
        "a    c",
        "1    x",
        "222  y",
    ]
    assert text_table([]) == []


def test_interval_pictures_share_one_scale_for_each_unit():
    metrics = {
        "a": {"baseline": 0.0, "candidate": 0.2, "ci95": [0.1, 0.4], "unit": "fraction"},
        "b": {"baseline": 0.0, "candidate": -0.1, "ci95": [-0.2, 0.0], "unit": "fraction"},
        "c": {"baseline": 5, "candidate": 5, "ci95": [0, 0], "unit": "tokens"},
        "d": {"baseline": 5, "candidate": 6, "ci95": None, "unit": "tokens"},
    }
    assert evidence._interval_pictures(metrics) == {  # the farthest end, 0.4, is at 90 + 85
        "a": {"low": "111.2", "high": "175.0", "change": "132.5"},
        "b": {"low": "47.5", "high": "90.0", "change": "68.8"},
        "c": {"low": "90.0", "high": "90.0", "change": "90.0"},
    }
