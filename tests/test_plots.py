"""Figures: what the data says is what is drawn; axes are named; text from data is inert."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest

from ftlib import plots
from ftlib.records import GateResult

GATE = GateResult(
    id="dup_rate", notebook="02_sft", value=0.011, threshold=0.02, op="<=", n=480, ci95=[0.004, 0.02], verdict="PASS"
)


def notes(fig: go.Figure) -> list[str]:
    return [note.text for note in fig.layout.annotations]


FIGURES = {
    "bars": lambda: plots.bars_with_intervals(["a", "b"], [0.2, 0.9], [(0.1, 0.3), None], "T", "way", "share", 0.85),
    "lines": lambda: plots.lines({"k1": ([1, 2], [0.1, 0.2])}, "T", "step", "KL (nats)", 1.0, "stop"),
    "loss": lambda: plots.loss_curve([{"step": 1, "loss": 2.0}], "T"),
    "contributions": lambda: plots.contribution_bars({"SFT": {"data": 4.0}}),
    "stacks": lambda: plots.stacked_bars({"LoRA": {"weights": 0.3}}, "T", "memory (GB)", 8.0, "8 GB"),
    "tornado": lambda: plots.tornado({"data": (-1.0, 3.0)}, "T", "lead (points)", 2.0, 0.0),
    "waterfall": lambda: plots.waterfall(["all", "ties"], [10, 8], "T"),
    "gates": lambda: plots.gate_matrix([GATE]),
    "histogram": lambda: plots.histogram([1, 2, 2, 3], "T", "length (words)"),
    "confusion": lambda: plots.confusion(["a", "b"], ["a", "b"], [[2, 0], [1, 3]], "T"),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_every_figure_is_titled_and_survives_json(make):
    fig = make()
    assert fig.layout.title.text
    again = go.Figure(json.loads(fig.to_json()))
    assert len(again.data) == len(fig.data) > 0
    if fig.data[0].type != "table":
        assert fig.layout.xaxis.title.text


def test_the_interval_is_drawn_from_low_to_high_wherever_the_value_is():
    """An interval of (0.1, 0.3): its middle is 0.2, its half width 0.1, also for a bar of 0.5 outside of it."""
    fig = plots.bars_with_intervals(["a"], [0.5], [(0.1, 0.3)], "T", "way", "share")
    bar, whisker = fig.data
    assert list(bar.y) == [0.5]
    assert whisker.y[0] == pytest.approx(0.2)
    assert whisker.error_y.array[0] == pytest.approx(0.1)


def test_bars_may_share_a_name_or_lack_a_value():
    fig = plots.bars_with_intervals(
        ["SFT", "SFT", "DPO"], [0.2, 0.4, None], [None, None, None], "T", "way", "share", 0.85
    )
    assert list(fig.data[0].x) == [0, 1, 2]
    assert notes(fig) == ["0.20", "0.40", "not measured", "needed: 0.85"]
    assert fig.layout.shapes[0].y0 == fig.layout.shapes[0].y1 == 0.85


def test_a_line_that_is_no_requirement_has_a_name_of_its_own():
    fig = plots.bars_with_intervals(["a"], [0.2], [None], "T", "way", "share", 0.4, "the start")
    assert notes(fig) == ["0.20", "the start:<br>0.40"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [1, 2], [None]), "got 1 names, 2 values, 1 intervals"),
        (([], [], []), "got 0 names"),
        ((["a"], [1], [(2, 1)]), r"a: expected an interval \(low, high\), got \(2, 1\)"),
    ],
)
def test_bars_refuse_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.bars_with_intervals(*arguments, "T", "x", "y")


def test_lines_differ_by_dash_as_well_as_by_colour():
    fig = plots.lines({"a": ([1], [1]), "b": ([1], [2])}, "T", "step", "KL (nats)")
    assert len({line.line.dash for line in fig.data}) == len({line.line.color for line in fig.data}) == 2
    assert fig.layout.showlegend


def test_lines_without_points_say_so_and_lengths_must_agree():
    assert "nothing logged yet" in notes(plots.lines({}, "T", "step", "KL (nats)"))
    with pytest.raises(ValueError, match="series 'a': expected x and y of one length, got 2 and 1"):
        plots.lines({"a": ([1, 2], [1])}, "T", "x", "y")


def test_loss_curve_picks_training_and_evaluation_rows():
    history = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5, "learning_rate": 1e-3},
        {"step": 2, "eval_loss": 1.8},
        {"step": 2, "train_runtime": 9.0},
    ]
    training, held_out = plots.loss_curve(history, "T").data
    assert (list(training.x), list(training.y)) == ([1, 2], [2.0, 1.5])
    assert (list(held_out.x), list(held_out.y)) == ([2], [1.8])
    assert "nothing logged yet" in notes(plots.loss_curve([], "T"))


def test_contribution_bars_mark_the_sum():
    fig = plots.contribution_bars({"SFT": {"data": 4.0, "cost": -1.0}, "DPO": {"data": 1.0}})
    by_name = {trace.name: list(trace.x) for trace in fig.data}
    assert by_name == {"data": [4.0, 1.0], "cost": [-1.0, 0.0], "sum": [3.0, 1.0]}
    with pytest.raises(ValueError, match="got no method"):
        plots.contribution_bars({})


def test_parts_past_the_palettes_end_are_hatched():
    fig = plots.contribution_bars({"SFT": {f"p{n}": 1.0 for n in range(10)}})
    looks = {(trace.marker.color, trace.marker.pattern.shape) for trace in fig.data[:-1]}
    assert len(looks) == 10


def test_stacked_bars_say_the_sum_and_the_limit():
    fig = plots.stacked_bars(
        {"LoRA": {"weights": 0.5, "logits": 1.0}, "full": {"weights": 9.0}}, "T", "GB", 8.0, "8 GB"
    )
    assert {trace.name: list(trace.x) for trace in fig.data} == {"weights": [0.5, 9.0], "logits": [1.0, 0.0]}
    assert list(fig.layout.yaxis.ticktext) == ["LoRA (1.50)", "full (9)"]
    assert notes(fig) == ["8 GB"] and fig.layout.shapes[0].x0 == 8.0
    with pytest.raises(ValueError, match="amount of 0 or more"):
        plots.stacked_bars({"LoRA": {"weights": -1.0}}, "T", "GB")


def test_tornado_has_the_widest_on_top_and_grows_from_the_base():
    fig = plots.tornado({"narrow": (1.5, 2.5), "wide": (-2.0, 3.0)}, "T", "lead (points)", 2.0, 0.0)
    assert list(fig.layout.yaxis.ticktext) == ["narrow", "wide"]  # upwards
    low, high = fig.data
    assert list(low.x) == [-0.5, -4.0]
    assert list(high.x) == [0.5, 1.0]
    assert low.base == high.base == 2.0
    assert notes(fig) == ["now 2", "turns at 0"]
    with pytest.raises(ValueError, match="least, most"):
        plots.tornado({"a": (2, 1)}, "T", "x", 0)


def test_waterfall_draws_the_losses_of_each_step():
    """900 rows, 860 and then 700 left: -40, -160, and 700 at the end."""
    trace = plots.waterfall(["all", "ties", "twins"], [900, 860, 700], "T").data[0]
    assert list(trace.y) == [900, -40, -160, 700]
    assert list(trace.measure) == ["absolute", "relative", "relative", "total"]
    assert list(trace.text) == ["900", "−40", "−160", "700"]
    with pytest.raises(ValueError, match="got 2 steps and 1 counts"):
        plots.waterfall(["all", "ties"], [900], "T")


def test_gate_matrix_says_the_verdict_in_words_and_the_note_where_it_did_not_pass():
    failed = GATE.model_copy(update={"verdict": "FAIL", "note": "drop <twins>", "value": None, "ci95": None})
    cells = columns(plots.gate_matrix([GATE.model_copy(update={"note": "drop twins"}), failed]))
    assert cells["value"] == ["0.011 [0.004, 0.02]", "–"]
    assert cells["needed"] == ["≤ 0.02", "≤ 0.02"]
    assert cells["verdict"] == ["<b>✔ PASS</b>", "<b>✘ FAIL</b>"]
    assert cells["what to do"] == ["", "drop &lt;twins&gt;"]
    with pytest.raises(ValueError, match="got none; judge a gate first"):
        plots.gate_matrix([])


def test_gate_matrix_is_tall_enough_for_an_interval_that_takes_a_line_of_its_own():
    long = GATE.model_copy(update={"value": -0.0241, "ci95": (-0.0352, -0.0151)})
    assert columns(plots.gate_matrix([long]))["value"] == ["-0.024<br>[-0.035, -0.015]"]
    assert plots.gate_matrix([long]).layout.height == plots.gate_matrix([GATE]).layout.height + 18


def columns(fig: go.Figure) -> dict[str, list[str]]:
    table = fig.data[0]
    return {
        head.strip("</b>"): list(cells) for head, cells in zip(table.header.values, table.cells.values, strict=True)
    }


def test_gate_matrix_leaves_out_columns_that_say_nothing_and_breaks_long_names_at_their_joints():
    named = GATE.model_copy(update={"id": "preferences.agreement_alpha"})
    assert list(columns(plots.gate_matrix([named]))) == ["gate", "value", "needed", "n", "verdict"]
    assert columns(plots.gate_matrix([named]))["gate"] == ["preferences.agreement_alpha"]  # there is room for it
    wordings = GATE.model_copy(update={"n": 1180, "clusters": 60})
    assert columns(plots.gate_matrix([wordings]))["n"] == ["1,180<br>in 60"]
    two = columns(plots.gate_matrix([named, GATE.model_copy(update={"notebook": "05_validate"})]))
    assert two["gate"][0] == "preferences.<br>agreement_alpha"
    assert two["measured in"] == ["02_sft", "05_validate"]


def test_bars_in_groups_stand_over_the_name_of_their_group():
    names = [("intent", "few-shot"), ("intent", "SFT"), ("json_valid", "SFT")]
    fig = plots.bars_with_intervals(names, [0.1, 0.9, 1.0], [None, (0.8, 0.95), None], "T", "task", "share")
    assert list(fig.data[0].x) == [0, 1, 2.4]
    assert list(fig.layout.xaxis.ticktext) == ["few-shot", "SFT", "SFT"]
    under = {note.text: note.x for note in fig.layout.annotations if note.yref == "paper"}
    assert under == {"<b>intent</b>": 0.5, "<b>json_valid</b>": 2.4}


def test_a_gate_without_evidence_marks_the_matrix():
    assert f"<b>{plots.SMOKE}</b>" not in notes(plots.gate_matrix([GATE]))
    weak = GATE.model_copy(update={"evidence": False})
    assert f"<b>{plots.SMOKE}</b>" in notes(plots.gate_matrix([weak]))
    mixed = plots.gate_matrix([GATE, weak])  # e.g. one gate rests on simulated auditors
    assert f"<b>{plots.SMOKE}</b>" not in notes(mixed)
    assert [verdict.endswith("no evidence") for verdict in columns(mixed)["verdict"]] == [False, True]


def test_histogram_counts_everything_finite_and_says_what_it_left_out():
    fig = plots.histogram(
        [1.0, 2.0, 2.0, np.nan, np.inf], "T", "length (words)", bins=2, vline=1.5, vline_label="limit"
    )
    assert list(fig.data[0].y) == [1, 2]
    assert notes(fig) == ["limit", "2 not finite, not counted"]
    with pytest.raises(ValueError, match="expected one or more finite numbers"):
        plots.histogram([np.nan], "T", "x")


def test_histogram_draws_two_sets_over_the_same_bins():
    fig = plots.histogram({"chosen": [0, 1], "rejected": [3, 4]}, "T", "length (words)", bins=4)
    assert list(fig.data[0].x) == list(fig.data[1].x)
    assert [max(trace.y) for trace in fig.data] == [1, 2]  # 3 and 4 share the last bin, which is closed


def test_mark_smoke_marks_once():
    fig = plots.mark_smoke(plots.mark_smoke(FIGURES["lines"]()))
    assert notes(fig).count(f"<b>{plots.SMOKE}</b>") == 1


def test_text_from_data_is_escaped():
    nasty = "<a href='x'>&"
    figs = [
        plots.bars_with_intervals([nasty], [1], [None], nasty, "x", "y"),
        plots.lines({nasty: ([1], [1])}, nasty, "x", "y", 1.0, nasty),
        plots.contribution_bars({nasty: {nasty: 1.0}}, nasty),
        plots.stacked_bars({nasty: {nasty: 1.0}}, nasty, "x", 1.0, nasty),
        plots.waterfall([nasty], [1], nasty),
        plots.gate_matrix([GATE.model_copy(update={"id": nasty, "verdict": "FAIL", "note": nasty})], nasty),
        plots.histogram({nasty: [1, 2]}, nasty, "x", vline=1.0, vline_label=nasty),
    ]
    for fig in figs:
        text = fig.to_json().replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<a" not in text
        assert "&lt;a" in text


def test_a_confusion_matrix_shows_counts_and_shades_by_line():
    """Line b: 1 of 4 given as a, 3 as b; a line without rows stays white."""
    fig = plots.confusion(["a", "b", "c"], ["a", "b"], [[2, 0], [1, 3], [0, 0]], "T")
    assert np.asarray(fig.data[0].z).tolist() == [[1, 0], [0.25, 0.75], [0, 0]]
    assert [list(line) for line in fig.data[0].text] == [["2", ""], ["1", "3"], ["", ""]]
    hostile = plots.confusion(["<img src=x>"], ["<b>"], [[1]], "T")
    assert hostile.layout.yaxis.ticktext[0] == "&lt;img src=x&gt;" and hostile.layout.xaxis.ticktext[0] == "&lt;b&gt;"
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        plots.confusion(["a"], ["a", "b"], [[1]], "T")
