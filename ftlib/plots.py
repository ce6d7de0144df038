"""Plotly figures: every function takes plain data and returns a Figure; nothing is shown, written or read here.

One calm theme for all notebooks: one question a figure, axes with units, direct labels, colours that stay apart for
colour-blind readers, never colour alone (verdicts carry a word, lines a dash). Made to be read at 900 px; the width
follows the page. Names that come from data are escaped, because plotly renders a part of HTML.

Left out on purpose: choosing what to show, statistics, and a plotting class. A figure can be changed afterwards.
"""

import html
import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from ftlib.records import GateResult

PALETTE = ("#2f6f9f", "#d98032", "#4f9a7a", "#a8577e", "#7a6fb0", "#8c8c46", "#5fa8c4", "#6b6b6b")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
BAR = "#8fb5d1"  # light enough for an interval drawn over it
INK, GRID, SOFT = "#27323a", "#e6eaed", "#8a969e"
GOOD, BAD, OPEN = "#2f7d5b", "#b5473c", "#96741f"  # words on white reach a contrast of 4.5
VERDICTS = {"PASS": ("✔ PASS", GOOD), "FAIL": ("✘ FAIL", BAD), "ABSTAIN": ("? ABSTAIN", OPEN)}
SMOKE = "smoke run: no evidence"

Ends = Sequence[float] | None


def bars_with_intervals(
    names: Sequence[str | tuple[str, str]],
    values: Sequence[float | None],
    intervals: Sequence[Ends],
    title: str,
    x_title: str,
    y_title: str,
    threshold: float | None = None,
    threshold_label: str = "needed",
) -> go.Figure:
    """Upright bars, each with the interval of its value, and the threshold as a dashed line.

    Args:
        names: one per bar, under it; (group, name) sets the bars of a group together over the group's name.
        values: bar heights, in the unit that `y_title` names; None leaves a gap.
        intervals: (low, high) of the value itself (not of a difference), or None.
        title, x_title, y_title: what the figure answers; what a bar is; the measure with its unit.
        threshold, threshold_label: what the values are compared with, and its name at the line's end.

    Raises:
        ValueError: the lengths differ, there is no bar, or an interval's low end is above its high end.
    """
    if not len(names) == len(values) == len(intervals) or not names:
        raise ValueError(
            f"expected one or more bars with one value and one interval (or None) each, got {len(names)} names, "
            f"{len(values)} values, {len(intervals)} intervals"
        )
    grouped = not isinstance(names[0], str)
    groups, labels = zip(*[name if grouped else ("", name) for name in names], strict=True)
    # Numbers, so that two bars may have the same name; a little space between groups.
    gaps = [0, *(int(one != two) for one, two in itertools.pairwise(groups))]
    place = [n + 0.4 * gap for n, gap in enumerate(itertools.accumulate(gaps))]
    fig = go.Figure(go.Bar(x=place, y=list(values), marker_color=BAR, width=0.56, showlegend=False, hoverinfo="skip"))
    ends = [(where, *map(float, pair)) for where, pair in zip(place, intervals, strict=True) if pair is not None]
    for name, pair in zip(names, intervals, strict=True):
        if pair is not None and pair[0] > pair[1]:
            raise ValueError(f"{name}: expected an interval (low, high), got ({pair[0]:g}, {pair[1]:g})")
    if ends:
        where, low, high = (np.array(column) for column in zip(*ends, strict=True))
        # Drawn from low to high, whatever the value is, so that a wrong interval is seen and not hidden.
        half = (high - low) / 2
        fig.add_scatter(
            x=where,
            y=low + half,
            error_y={"type": "data", "array": half, "color": INK, "thickness": 1.6, "width": 7},
            mode="markers",
            marker={"size": 0.1, "color": INK},
            showlegend=False,
            hoverinfo="skip",
        )
    known = dict(zip([where for where, *_ in ends], [high for *_, high in ends], strict=True))
    for where, value in zip(place, values, strict=True):
        top = max(value, known.get(where, value)) if value is not None else 0
        text = "not measured" if value is None else _number(value)
        soft = "rgba(255,255,255,0.75)"  # readable also where the threshold's line runs behind it
        fig.add_annotation(x=where, y=top, text=text, showarrow=False, yshift=13, font={"size": 14}, bgcolor=soft)
    _style(fig, title, x_title, y_title)
    if threshold is not None:
        _line_across(fig, threshold, f"{threshold_label}: {_number(threshold)}")
    ticks = [_label(label, max(6, 60 // len(labels)) if grouped else 18) for label in labels]
    fig.update_xaxes(tickvals=place, ticktext=ticks, range=[-0.6, place[-1] + 0.6], showgrid=False)
    fig.update_yaxes(rangemode="tozero")
    if grouped:
        _name_groups(fig, groups, place, lines_above=max(t.count("<br>") + 1 for t in ticks))
    return fig


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    x_title: str,
    y_title: str,
    hline: float | None = None,
    hline_label: str = "",
) -> go.Figure:
    """Lines over one axis, told apart by colour and dash, and a reference line across.

    Args:
        series: name -> (x, y), of one length each; no points leave an empty figure that says so (a live chart's start).
        title, x_title, y_title: what the figure answers; the axes with units.
        hline: height of the reference line.
        hline_label: what it is.

    Raises:
        ValueError: x and y of a series differ in length.
    """
    fig = go.Figure()
    for number, (name, (x, y)) in enumerate(series.items()):
        if len(x) != len(y):
            raise ValueError(f"series {name!r}: expected x and y of one length, got {len(x)} and {len(y)}")
        fig.add_scatter(
            x=list(x),
            y=list(y),
            name=_label(name, 28),
            mode="lines+markers" if len(x) <= 40 else "lines",
            line={"color": PALETTE[number % len(PALETTE)], "dash": DASHES[number % len(DASHES)], "width": 2.4},
            marker={"size": 6},
        )
    if not any(len(x) for x, _ in series.values()):
        _say(fig, "nothing logged yet")
        fig.update_xaxes(range=[0, 1], showticklabels=False)
        fig.update_yaxes(range=[0, 1], showticklabels=False)
    _style(fig, title, x_title, y_title)
    if hline is not None:
        _line_across(fig, hline, hline_label or _number(hline))
    fig.update_layout(showlegend=len(series) > 1)
    return fig


def loss_curve(log_history: Sequence[Mapping], title: str, y_title: str = "loss (nats per token)") -> go.Figure:
    """Training and evaluation loss by step, from a trainer's `state.log_history`.

    Args:
        log_history: rows with "step" and "loss" or "eval_loss"; other rows are passed over. May be empty.
        title: what the figure answers.
        y_title: the loss with its unit; DPO's is per pair.
    """
    series = {}
    for key, name in (("loss", "training"), ("eval_loss", "held out")):
        rows = [row for row in log_history if key in row and "step" in row]
        if rows or key == "loss":
            series[name] = ([row["step"] for row in rows], [row[key] for row in rows])
    return lines(series, title, "optimiser step", y_title)


def contribution_bars(
    contributions: Mapping[str, Mapping[str, float]],
    title: str = "What speaks for each method, and what against",
    x_title: str = "points above or below 50",
) -> go.Figure:
    """Stacked bars on both sides of zero: what each part adds to each method's sum, and the sum as a diamond.

    Args:
        contributions: method -> part -> points; a part may be missing for a method.
        title: what the figure answers.
        x_title: the points with their meaning.

    Raises:
        ValueError: there is no method.
    """
    if not contributions:
        raise ValueError("expected method -> part -> points, got no method")
    sums = {method: sum(points.values()) for method, points in contributions.items()}
    ticks = [f"{_label(method, 18)} ({value:+.0f})" for method, value in sums.items()]
    fig = _stacks(contributions, ticks, title, x_title, "%{x:+.1f} points")
    fig.add_scatter(
        y=list(range(len(sums))),
        x=list(sums.values()),
        mode="markers",
        name="sum",
        marker={"symbol": "diamond", "size": 12, "color": INK, "line": {"color": "white", "width": 1.5}},
        hovertemplate="sum %{x:+.1f} points",
    )
    fig.update_xaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1.4)
    return fig


def stacked_bars(
    amounts: Mapping[str, Mapping[str, float]],
    title: str,
    x_title: str,
    limit: float | None = None,
    limit_label: str = "",
) -> go.Figure:
    """Lying bars of parts that add up to an amount, and what there is of it as a dashed line.

    Args:
        amounts: name -> part -> amount, not below 0; a part may be missing for a name.
        title, x_title: what the figure answers; the amount with its unit.
        limit: e.g. the memory of a device.
        limit_label: what it is.

    Raises:
        ValueError: there is no bar, or an amount is below 0.
    """
    if not amounts or any(value < 0 for parts in amounts.values() for value in parts.values()):
        raise ValueError(f"expected name -> part -> amount of 0 or more, got {dict(amounts)}")
    ticks = [f"{_label(name, 24)} ({_number(sum(parts.values()))})" for name, parts in amounts.items()]
    fig = _stacks(amounts, ticks, title, x_title, "%{x:.3g}")
    if limit is not None:
        _line_up(fig, limit, limit_label or _number(limit))
        fig.update_yaxes(autorange=False, range=[len(ticks) - 0.4, -1.0])  # room for the line's label on top
        widest = max(limit * 1.45, *(sum(parts.values()) * 1.05 for parts in amounts.values()))
        fig.update_xaxes(range=[0, widest])
    return fig


def _stacks(
    amounts: Mapping[str, Mapping[str, float]], ticks: Sequence[str], title: str, x_title: str, hover: str
) -> go.Figure:
    """Lying bars of parts, the first on top, the legend below; past the palette's end parts are hatched."""
    rows = list(range(len(amounts)))
    parts = list(dict.fromkeys(part for points in amounts.values() for part in points))
    fig = go.Figure()
    for number, part in enumerate(parts):
        fig.add_bar(
            y=rows,
            x=[points.get(part, 0.0) for points in amounts.values()],
            orientation="h",
            name=_label(part.replace("_", " "), 28),
            marker={
                "color": PALETTE[number % len(PALETTE)],
                "line": {"color": "white", "width": 1},
                "pattern": {"shape": "/" if number >= len(PALETTE) else "", "size": 6, "solidity": 0.35},
            },
            hovertemplate=hover,
        )
    below = 22 * math.ceil((len(parts) + 1) / 3)  # the legend, about three names a line on a narrow page
    _style(fig, title, x_title, "", height=184 + below + 50 * len(rows))
    fig.update_layout(barmode="relative", bargap=0.4, margin_b=84 + below)
    fig.update_layout(legend={"traceorder": "normal", "yref": "container", "y": 0.01, "yanchor": "bottom"})
    fig.update_yaxes(tickvals=rows, ticktext=ticks, autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=True)
    return fig


def tornado(
    swings: Mapping[str, tuple[float, float]],
    title: str,
    x_title: str,
    base: float,
    threshold: float | None = None,
) -> go.Figure:
    """How far each answer alone can move a number, the widest on top.

    Args:
        swings: name -> (least, most) of the number.
        title, x_title: what the figure answers; the number with its unit.
        base: the number as it stands; bars grow from it.
        threshold: where the decision turns.

    Raises:
        ValueError: there is no bar, or a least is above its most.
    """
    if not swings or any(low > high for low, high in swings.values()):
        raise ValueError(f"expected name -> (least, most), got {dict(swings)}")
    ordered = sorted(swings, key=lambda name: swings[name][1] - swings[name][0])
    rows = list(range(len(ordered)))
    fig = go.Figure()
    for end, colour, name in ((0, PALETTE[1], "can lower it"), (1, PALETTE[0], "can raise it")):
        fig.add_bar(
            y=rows,
            x=[swings[item][end] - base for item in ordered],
            base=base,
            orientation="h",
            marker_color=colour,
            name=name,
            width=0.6,
            customdata=[swings[item][end] for item in ordered],
            hovertemplate="%{customdata:.1f}",
        )
    _style(fig, title, x_title, "", height=222 + 36 * len(ordered))
    fig.update_layout(barmode="overlay")
    ticks = [_label(name.replace("_", " "), 26) for name in ordered]
    top = len(ordered) + 0.2  # room for the labels of the lines
    fig.update_yaxes(tickvals=rows, ticktext=ticks, showgrid=False, range=[-0.6, top])
    fig.update_xaxes(showgrid=True)
    _line_up(fig, base, f"now {_number(base)}", colour=INK, dash="solid")
    if threshold is not None:
        _line_up(fig, threshold, f"turns at {_number(threshold)}")
    return fig


def waterfall(steps: Sequence[str], counts: Sequence[int], title: str, y_title: str = "rows") -> go.Figure:
    """What each step of a cleaning took away (or added): from all rows to what is left.

    Args:
        steps: names; the first is what there was at the beginning.
        counts: rows left after each step, e.g. [900, 860, 700].
        title: what the figure answers.
        y_title: what is counted.

    Raises:
        ValueError: the lengths differ, or there are no steps.
    """
    if len(steps) != len(counts) or not steps:
        raise ValueError(f"expected one count a step, at least one, got {len(steps)} steps and {len(counts)} counts")
    changes = [after - before for before, after in zip(counts, counts[1:], strict=False)]
    place = list(range(len(steps) + 1))
    text = [f"{counts[0]:,}", *(f"{change:+,}".replace("-", "−") for change in changes), f"{counts[-1]:,}"]
    fig = go.Figure(
        go.Waterfall(
            x=place,
            y=[counts[0], *changes, counts[-1]],
            measure=["absolute", *["relative"] * len(changes), "total"],
            text=text,
            textposition="outside",
            decreasing={"marker": {"color": PALETTE[1]}},
            increasing={"marker": {"color": PALETTE[2]}},
            totals={"marker": {"color": PALETTE[0]}},
            connector={"line": {"color": SOFT, "width": 1}},
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    _style(fig, title, "step", f"{y_title} (count)")
    fig.update_xaxes(tickvals=place, ticktext=[*(_label(step, 16) for step in steps), "left"], showgrid=False)
    fig.update_yaxes(rangemode="tozero")
    return fig


def _n_label(gate: GateResult) -> str:
    """How many items, and below it in how many clusters, where they come in some."""
    return f"{gate.n:,}" + (f"<br>in {gate.clusters:,}" if gate.clusters else "")


def gate_matrix(gates: Sequence[GateResult], title: str = "Gates") -> go.Figure:
    """All gates in one table: number with interval, what was needed, items behind it and their clusters, verdict.

    The note (what to do) shows where a gate did not pass. Where no gate is evidence (a smoke run) the figure is marked
    so, where some are not (simulated auditors), these gates are.

    Raises:
        ValueError: there are no gates.
    """
    if not gates:
        raise ValueError("expected one or more gates, got none; judge a gate first")
    colours = [VERDICTS[gate.verdict][1] for gate in gates]
    values = [_value_label(gate) for gate in gates]
    needed = [f"{'≥' if gate.op == '>=' else '≤'} {_number(gate.threshold)}" for gate in gates]
    notes = [gate.note if gate.verdict != "PASS" else "" for gate in gates]
    smoke = not any(gate.evidence for gate in gates)
    weak = ["" if gate.evidence or smoke else "<br>no evidence" for gate in gates]
    one_notebook = len({gate.notebook for gate in gates}) == 1
    width, letters = (265, 32) if one_notebook else (165, 19)  # of the ids: they take the idle column's place
    # head, width, side, colour, cells; what says nothing is left out, because a notebook's page is narrow
    columns = [
        ("gate", width, "left", INK, [_id_label(gate.id, letters) for gate in gates]),
        ("measured in", 168, "left", INK, [_id_label(gate.notebook, 22) for gate in gates]),
        ("value", 140, "right", INK, values),
        ("needed", 84, "right", INK, needed),
        ("n", 56, "right", INK, [_n_label(gate) for gate in gates]),
        (
            "verdict",
            96,
            "left",
            colours,
            [f"<b>{VERDICTS[g.verdict][0]}</b>{w}" for g, w in zip(gates, weak, strict=True)],
        ),
        ("what to do", 190, "left", INK, [_label(note, 22) for note in notes]),
    ]
    idle = {"measured in": one_notebook, "what to do": not any(notes)}
    heads, widths, sides, inks, cells = zip(*[c for c in columns if not idle.get(c[0])], strict=True)
    rows = list(zip(*cells, strict=True))
    fig = go.Figure(
        go.Table(
            columnwidth=widths,
            header={
                "values": [f"<b>{head}</b>" for head in heads],
                "align": sides,
                "fill_color": GRID,
                "line_color": "white",
                "font": {"color": INK, "size": 14},
                "height": 32,
            },
            cells={
                "values": cells,
                "align": sides,
                "fill_color": "white",
                "line_color": GRID,
                "font": {"color": inks, "size": 13},
                "height": 26,
            },
        )
    )
    # A row takes its line and the space around it: 31 pixels with the widest usual font, whatever "height" says.
    tall = sum(32 + 18 * max(cell.count("<br>") for cell in row) for row in rows)
    _style(fig, title, "", "", height=96 + 32 + tall + 44)
    fig.update_layout(margin={"l": 12, "r": 12, "b": 20})
    if smoke:
        mark_smoke(fig)
    return fig


def confusion(wanted: Sequence[str], given: Sequence[str], counts: ArrayLike, title: str) -> go.Figure:
    """A confusion matrix: a line for each wanted label, a column for each given one, the count in each cell.

    The shade is the count's share of its line, so that a rare label is as visible as a frequent one.

    Args:
        counts: whole numbers, shape (wanted, given).

    Raises:
        ValueError: the counts have another shape, or there is no label.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(wanted), len(given)) or not counts.size:
        raise ValueError(
            f"expected counts of shape ({len(wanted)}, {len(given)}), one for each wanted and given label, got "
            f"{counts.shape}"
        )
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    fig = go.Figure(
        go.Heatmap(
            z=share,
            x=list(range(len(given))),
            y=list(range(len(wanted))),
            text=[[str(n) if n else "" for n in line] for line in counts.tolist()],
            texttemplate="%{text}",
            colorscale=[[0, "#ffffff"], [1, PALETTE[0]]],
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            colorbar={"title": "share of<br>the line"},
            hoverinfo="skip",
        )
    )
    _style(fig, title, "label given", "label wanted", height=130 + 34 * len(wanted))
    fig.update_xaxes(tickvals=list(range(len(given))), ticktext=[_id_label(x, 12) for x in given], showgrid=False)
    fig.update_yaxes(
        tickvals=list(range(len(wanted))), ticktext=[_label(x, 24) for x in wanted], autorange="reversed",
        showgrid=False,
    )  # fmt: skip
    return fig


def histogram(
    values: ArrayLike | Mapping[str, ArrayLike],
    title: str,
    x_title: str,
    bins: int = 30,
    vline: float | None = None,
    vline_label: str = "",
) -> go.Figure:
    """Counts in equal bins; several sets are drawn as steps over the same bins.

    Args:
        values: numbers, or name -> numbers. Numbers that are not finite are not counted, and the figure says so.
        title, x_title: what the figure answers; the measure with its unit.
        bins: how many.
        vline: a limit, e.g. the longest text that fits.
        vline_label: what it is.

    Raises:
        ValueError: there is no finite number.
    """
    groups = values if isinstance(values, Mapping) else {"": values}
    arrays = {name: np.asarray(group, dtype=float).ravel() for name, group in groups.items()}
    kept = {name: array[np.isfinite(array)] for name, array in arrays.items()}
    everything = np.concatenate(list(kept.values())) if kept else np.array([])
    if everything.size == 0:
        raise ValueError(f"histogram {title!r}: expected one or more finite numbers, got none")
    edges = np.histogram_bin_edges(everything, bins=bins)
    fig = go.Figure()
    for number, (name, array) in enumerate(kept.items()):
        counts, _ = np.histogram(array, edges)
        colour = PALETTE[number % len(PALETTE)]
        if len(kept) == 1:
            fig.add_bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=counts,
                width=np.diff(edges) * 0.94,
                marker_color=colour,
                name=_label(name, 28),
            )
        else:
            fig.add_scatter(
                x=np.repeat(edges, 2),
                y=np.concatenate([[0], np.repeat(counts, 2), [0]]),
                mode="lines",
                line={"color": colour, "dash": DASHES[number % len(DASHES)], "width": 2.4},
                name=_label(name, 28),
            )
    _style(fig, title, x_title, "items (count)")
    fig.update_layout(showlegend=len(kept) > 1)
    tallest = max(np.histogram(array, edges)[0].max() for array in kept.values())
    fig.update_yaxes(range=[0, tallest * 1.14])
    if vline is not None:
        _line_up(fig, vline, vline_label or _number(vline))
    lost = sum(array.size for array in arrays.values()) - everything.size
    if lost:
        _say(fig, f"{lost} not finite, not counted", x=1, y=1)
    return fig


def gantt(
    tasks: Sequence[Mapping],
    title: str = "What happens when?",
    x_title: str = "date",
) -> go.Figure:
    """Tasks as bars over dates, a phase a colour; the critical path is outlined and named so.

    Args:
        tasks: rows with "title", "phase", "owner", "start", "end" (ISO dates, the end is the last day of work),
            "critical" and "slack_days".
        title, x_title: what the figure answers; the axis.

    Raises:
        ValueError: there are no tasks.
    """
    if not tasks:
        raise ValueError("expected one or more tasks, got none; make a schedule first")
    fig = go.Figure()
    phases = list(dict.fromkeys(task["phase"] for task in tasks))
    for number, phase in enumerate(phases):
        mine = [(place, task) for place, task in enumerate(tasks) if task["phase"] == phase]
        starts = [np.datetime64(task["start"]) for _, task in mine]
        ends = [np.datetime64(task["end"]) + 1 for _, task in mine]
        fig.add_bar(
            y=[place for place, _ in mine],
            x=[float((end - start) / np.timedelta64(1, "ms")) for start, end in zip(starts, ends, strict=True)],
            base=[str(start) for start in starts],
            orientation="h",
            name=_label(phase, 40),
            marker={
                "color": PALETTE[number % len(PALETTE)],
                "line": {"color": INK, "width": [2.5 if task["critical"] else 0 for _, task in mine]},
            },
            text=["critical" if task["critical"] else f"{task['slack_days']} d slack" for _, task in mine],
            textposition="outside",
            cliponaxis=False,
            customdata=[_label(task["owner"], 60) for _, task in mine],
            hovertemplate="%{customdata}",
        )
    _style(fig, title, x_title, "", height=222 + 30 * len(tasks))
    fig.update_layout(barmode="overlay", bargap=0.35, margin_t=128, margin_r=80)
    ticks = [_label(task["title"], 40) for task in tasks]
    fig.update_yaxes(tickvals=list(range(len(tasks))), ticktext=ticks, autorange="reversed", showgrid=False)
    fig.update_xaxes(type="date", showgrid=True)
    return fig


def risk_matrix(
    risks: Sequence[Mapping], title: str = "Which risks are high?", levels: Mapping[tuple[int, int], str] | None = None
) -> go.Figure:
    """Risks by severity and likelihood, as counts in nine fields that carry the word of their level.

    Args:
        risks: rows with "severity", "likelihood" (1..3) and "id"; those that are closed are left out by the caller.
        title: what the figure answers.
        levels: (severity, likelihood) -> word, so that the rule is the caller's.
    """
    levels = levels or {}
    counts = np.zeros((3, 3), dtype=int)  # likelihood x severity
    for risk in risks:
        counts[risk["likelihood"] - 1, risk["severity"] - 1] += 1
    shade = {"low": 0, "medium": 1, "high": 2}
    grades = [1, 2, 3]
    z = [[shade.get(levels.get((s, k), ""), 0) for s in grades] for k in grades]
    text = [[f"{levels.get((s, k), '')}<br><b>{counts[k - 1, s - 1]}</b>" for s in grades] for k in grades]
    fig = go.Figure(
        go.Heatmap(
            x=grades, y=grades, z=z, zmin=0, zmax=2, text=text, texttemplate="%{text}", showscale=False, xgap=3, ygap=3,
            colorscale=[[0, "#e3f0e8"], [0.5, "#f6e7c4"], [1, "#f3cfca"]], hoverinfo="skip",
        )
    )  # fmt: skip
    _style(fig, title, "severity (1 low to 3 high)", "likelihood (1 low to 3 high)", height=400)
    fig.update_xaxes(tickvals=grades)
    fig.update_yaxes(tickvals=grades, showgrid=False)
    return fig


def mark_smoke(fig: go.Figure) -> go.Figure:
    """Write "smoke run: no evidence" across the top right; once, however often it is called. Returns the figure."""
    if not any(note.name == "smoke" for note in fig.layout.annotations):
        fig.add_annotation(
            name="smoke",
            text=f"<b>{SMOKE}</b>",
            xref="paper",
            yref="paper",
            x=1,
            y=1,
            yshift=34,
            xanchor="right",
            yanchor="bottom",
            showarrow=False,
            font={"color": BAD, "size": 14},
            bordercolor=BAD,
            borderpad=4,
            bgcolor="white",
        )
    return fig


def _style(fig: go.Figure, title: str, x_title: str, y_title: str, *, height: int = 420) -> None:
    fig.update_layout(
        template="none",
        title={
            "text": _label(title, 70),
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "xanchor": "left",
            "yanchor": "top",
            "pad": {"t": 18},
            "font": {"size": 18},
        },
        font={"family": "Inter, Segoe UI, Helvetica, Arial, sans-serif", "size": 14, "color": INK},
        colorway=PALETTE,
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=height,
        margin={"l": 72, "r": 28, "t": 90, "b": 64},
        legend={"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom", "font": {"size": 13}},
        hoverlabel={"font": {"size": 13}},
    )
    axis = {"automargin": True, "linecolor": SOFT, "ticks": "outside", "tickcolor": SOFT, "title_standoff": 12}
    fig.update_xaxes(title_text=x_title, showgrid=False, zeroline=False, showline=True, **axis)
    fig.update_yaxes(title_text=y_title, showgrid=True, gridcolor=GRID, zeroline=False, **axis)


def _line_across(fig: go.Figure, y: float, text: str) -> None:
    """A dashed line with its label outside, to the right, where it covers no mark. Call after `_style`."""
    fig.add_hline(y=y, line={"color": BAD, "width": 1.6, "dash": "dash"})
    _note(fig, _label(text, 14), x=1, xref="paper", y=y, xanchor="left", yanchor="middle", xshift=6, align="left")
    fig.update_layout(margin_r=118)


def _line_up(fig: go.Figure, x: float, text: str, *, colour: str = BAD, dash: str = "dash") -> None:
    """An upright line with its label at the top of the plot; leave room there."""
    fig.add_vline(x=x, line={"color": colour, "width": 1.6, "dash": dash})
    place = {"y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top", "xshift": 4}
    _note(fig, html.escape(text), x=x, font={"color": colour, "size": 13}, bgcolor="rgba(255,255,255,0.85)", **place)


def _name_groups(fig: go.Figure, groups: Sequence[str], place: Sequence[float], *, lines_above: int) -> None:
    """Write each group's name under the middle of its bars, below the `lines_above` lines of their own names."""
    below = {"yref": "paper", "y": 0, "yanchor": "top", "yshift": -16 - 16 * lines_above}
    names = {group: _id_label(group, 18) for group in groups}
    for group, name in names.items():
        middle = np.mean([x for x, other in zip(place, groups, strict=True) if other == group])
        _note(fig, f"<b>{name}</b>", x=middle, font={"color": INK, "size": 13}, **below)
    lines = max(name.count("<br>") + 1 for name in names.values())
    fig.update_xaxes(tickangle=0, tickfont={"size": 12}, title_standoff=20 + 17 * lines)


def _note(fig: go.Figure, text: str, **place) -> None:
    fig.add_annotation(text=text, showarrow=False, **({"font": {"color": BAD, "size": 13}} | place))


def _say(fig: go.Figure, text: str, *, x: float = 0.5, y: float = 0.5) -> None:
    fig.add_annotation(
        x=x, y=y, xref="paper", yref="paper", text=html.escape(text), showarrow=False, font={"color": SOFT, "size": 14}
    )


def _label(text: object, width: int) -> str:
    """Escaped, and broken into lines of at most `width` letters."""
    found = textwrap.wrap(str(text), width, break_long_words=True) or [""]
    return "<br>".join(html.escape(line, quote=False) for line in found)


def _id_label(name: str, width: int) -> str:
    """A name such as `sft.intent_accuracy`, broken after its dots and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[._])", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "<br>".join(_label(line, width) for line in lines)


def _number(value: float) -> str:
    """Two figures behind the point below 10, one up to 1,000, none above; small numbers keep two that count."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and (abs(value) >= 2 or value == 0):
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:.2g}" if size < 0.1 else f"{value:.2f}" if size < 10 else f"{value:,.{1 if size < 1000 else 0}f}"


def _value_label(gate: GateResult) -> str:
    """Number and interval: two lines where one would be wrapped, which the height of the table could not know."""
    value = "–" if gate.value is None else _number(gate.value)
    if gate.ci95 is None:
        return value
    interval = f"[{_number(gate.ci95[0])}, {_number(gate.ci95[1])}]"
    return value + (" " if len(value + interval) < 20 else "<br>") + interval
