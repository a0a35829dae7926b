"""Figures of the report: forest plots of differences, and curves. All are legible at the width of a phone."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.report.statistics import Difference
from jaxresnet.report.study import Study, Table

WIDTH, LABELS = 4.8, 1.75  # inches: of a figure, and of the labels at its left
ROW, ABOVE, BELOW, LINE = 0.185, 0.45, 0.4, 25  # inches a row, above and below the rows; letters a line of a label
LINEAR = 2.0  # points up to which the axis of differences is linear
# Colours with enough contrast on white and on black, which also differ without colour vision; markers differ as well.
COLOURS = {  # of a line and its marker, the marker, and the marker's inside
    "supported": ("#2b7bba", "o", "#2b7bba"),
    "contradicted": ("#d1495b", "s", "#d1495b"),
    "inconclusive": ("#8a8a8a", "o", "white"),
    "not testable": ("#b0b0b0", "x", "#b0b0b0"),
    "differs": ("#2b7bba", "o", "#2b7bba"),
    "no difference found": ("#8a8a8a", "o", "white"),
}
PAPER = "#b8860b"
MOST_CURVES = 10  # of an arm; more hide each other


class Mark(NamedTuple):
    """Row of a forest plot."""

    label: str  # text at the left
    difference: Difference = Difference()
    paper: float = math.nan  # the paper's difference, or NaN
    verdict: str = ""  # key of ``COLOURS``, or an empty text for a heading


def draw_forest(marks: Sequence[Mark], quantity: str) -> Figure:
    """Draw a row for each mark, from top to bottom, with its interval, and the paper's difference as a diamond."""
    lines = [textwrap.wrap(mark.label, LINE if mark.verdict else 56) or [""] for mark in marks]
    heights = [max(1.0, 0.82 * len(text)) + 0.35 * (not mark.verdict) for mark, text in zip(marks, lines, strict=True)]
    height = ROW * sum(heights) + ABOVE + BELOW
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(LABELS / WIDTH, BELOW / height, 0.98, 1 - ABOVE / height)
    axes = figure.subplots()
    values = [(each.value, each.low, each.high, paper) for _, each, paper, _ in marks]
    limit = min(np.nanmax([1.0, *np.abs(values).ravel()]) * 1.15, 70)
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.2)
    style: dict[str, Any] = {"va": "center", "linespacing": 1.1, "transform": axes.get_yaxis_transform()}
    for mark, text, bottom, size in zip(marks, map("\n".join, lines), np.cumsum(heights), heights, strict=True):
        y = bottom - size / 2
        if not mark.verdict:
            axes.text(-LABELS / (0.98 * WIDTH - LABELS), y + 0.12, text, weight="bold", fontsize=8.5, **style)
            continue
        colour, marker, inside = COLOURS[mark.verdict]
        ends = np.clip([mark.difference.low, mark.difference.high], -limit, limit)
        axes.plot(ends, [y, y], color=colour, linewidth=1.6)
        axes.plot(mark.difference.value, y, marker, color=colour, markersize=5, markerfacecolor=inside)
        if math.isfinite(mark.paper):
            axes.plot(mark.paper, y, "D", color=PAPER, markerfacecolor="none", markersize=4.5, markeredgewidth=1.2)
        axes.text(-0.03, y, text, ha="right", fontsize=8, **style)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(ylim=(sum(heights) + 0.2, -0.2), xlim=(-limit, limit), yticks=[])
    axes.set_xlabel(quantity, fontsize=8.5)
    ticks = [tick for tick in ((2, 10, 50) if limit > 12 else (1, 2, 5) if limit > 3 else (0.5, 1, 2)) if tick < limit]
    positions = [*(-tick for tick in reversed(ticks)), 0, *ticks]
    axes.set_xticks(positions, [f"{position:+g}" if position else "0" for position in positions], fontsize=8)
    axes.minorticks_off()
    axes.grid(axis="x", color="#808080", alpha=0.25)
    axes.spines[["left", "right", "top"]].set_visible(False)

    handles = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=inside, markersize=5, label=verdict)
        for verdict, (colour, marker, inside) in COLOURS.items()
        if any(mark.verdict == verdict for mark in marks)
    ]
    if any(math.isfinite(mark.paper) for mark in marks):
        diamond = Line2D([], [], color=PAPER, marker="D", markerfacecolor="none", linestyle="none")
        diamond.set_label("the paper's difference")
        handles.append(diamond)
    columns = min(3, len(handles))
    figure.legend(handles=handles, loc="upper center", ncols=columns, frameon=False, fontsize=8, borderaxespad=0.1)
    return figure


def draw_curves(table: Table, study: Study) -> Figure | None:
    """Draw a panel for each arm with runs: training and held-out accuracy by epoch, and the authors' log dotted.

    Of an arm's runs, the first ``MOST_CURVES`` are drawn, and the log if the runs have the arm's config. The figure is
    None if no run has metrics.
    """
    groups = {arm: [run for run in study.runs.get(name, ()) if run.lines] for arm, name in table.names.items()}
    groups = {arm: runs for arm, runs in groups.items() if runs}
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(WIDTH, 0.3 + 1.15 * rows + 0.45), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (arm, runs) in zip(panels, groups.items(), strict=False):
        for run in runs[:MOST_CURVES]:
            training = [(line["epoch"], line["train_accuracy"]) for line in run.lines if "train_accuracy" in line]
            axes.plot(*_thin(training), color="#999999", linewidth=0.8)
            key = next((key for key in run.lines[-1] if key in ("test_accuracy", "validation_accuracy")), "")
            held_out = [(line["epoch"], line[key]) for line in run.epoch_lines if key in line]
            few = "o" if len(held_out) < 12 else None
            axes.plot(*_thin(held_out), color="#2b7bba", linewidth=1, marker=few, markersize=2)
        if (name := table.configs[arm].paper.curve) and not study.setting:
            log = read_paper_curve(name)
            points = [*zip(log["eval_epoch"], log["eval_accuracy"], strict=True)]
            axes.plot(*_thin(points), color=PAPER, linewidth=1, linestyle=":")
        axes.set_title(arm, fontsize=8, pad=2)
        axes.tick_params(labelsize=7)
        axes.grid(color="#808080", alpha=0.25)
    for axes in panels[len(groups) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("accuracy, %", fontsize=8)
    return figure


def _thin(points: Sequence[tuple[float, float]], most: int = 60) -> np.ndarray:
    """Return x and y of some points, evenly, and always the last, because a page has hundreds of curves."""
    step = max(1, len(points) // most)
    return np.reshape(points[::-step][::-1], (-1, 2)).T


def to_svg(figure: Figure, inline: bool = False) -> Markup:
    """Return a figure as SVG with real text; ``inline`` ones take the colour of the page's text."""
    text = io.StringIO()
    # Without dates and random ids, equal figures are equal files.
    with matplotlib.rc_context({"svg.hashsalt": "jaxresnet", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=inline)
    svg = text.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', system-ui")
    if inline:
        svg = svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("#ffffff", "var(--page)")
    return Markup(svg)
