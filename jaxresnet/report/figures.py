"""Figures of the report, drawn with matplotlib to be legible at the width of a phone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from jaxresnet.core.costs import Layer, describe_layers
from jaxresnet.core.model import ResNet
from jaxresnet.report.paper_curves import Series

WIDTH = 4.8  # inches, so that text of 9 points is legible on a phone
COLUMNS = 2  # of panels
# Sizes around and between panels, in inches. A layout engine would draw the figure twice more to find them.
LEFT, RIGHT, BOTTOM, TOP, LEGEND = 0.62, 0.1, 0.45, 0.1, 0.25
PANEL, GAP = 1.3, 0.12
ABOVE = 0.4  # for an axis above a panel
TICKS = 4  # intervals on an axis of a panel at most; ticks take most of the time of drawing
BLUE, RED, GREY = "#1f6fb4", "#c23b22", "#777777"


class Curve(NamedTuple):
    """Curve of an arm.

    Attributes:
        label: name of the arm.
        x: epochs.
        values: values at these epochs, (seeds, epochs).
        paper: authors' own curve, or None if it is lost or not comparable.
        flop: floating-point operations per epoch, or None to draw no axis of operations.
    """

    label: str
    x: Sequence[float]
    values: np.ndarray
    paper: Series | None = None
    flop: float | None = None


class Bar(NamedTuple):
    """Bar of an arm or a class, which begins at 0.

    Attributes:
        label: name of the arm or class.
        value: length, negative to the left.
        interval: half the width of the interval around it, or NaN if it is not known.
        paper: the paper's value, or None.
    """

    label: str
    value: float
    interval: float
    paper: float | None = None


def draw_curves(curves: list[Curve], reference: str, quantity: str) -> Figure:
    """Draw a panel per arm: mean over seeds, band from lowest to highest, and the authors' own run dotted.

    In grey, each panel repeats the arm ``reference``. The axis above is the operations of training.
    """
    costs = {curve.flop for curve in curves}
    figure, panels = _panels(curves, above_first=costs != {None}, above_others=len(costs) > 1)
    base = next((curve for curve in curves if curve.label == reference), None)
    for number, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
        if base and curve is not base:
            axes.plot(base.x, base.values.mean(0), color=GREY, linewidth=1)
        axes.plot(curve.x, curve.values.mean(0), color=BLUE, marker="o" if len(curve.x) < 10 else None, markersize=3)
        if len(curve.values) > 1:
            axes.fill_between(curve.x, curve.values.min(0), curve.values.max(0), color=BLUE, alpha=0.2, linewidth=0)
        if curve.paper:
            axes.plot(curve.paper["eval_epoch"], curve.paper["eval_accuracy"], color=RED, linestyle=":", linewidth=1)
        if curve.flop and (number < COLUMNS or len(costs) > 1):
            _add_operations(axes, curve.flop)
    lines: list[tuple[str, str, Any]] = [("this arm", BLUE, "-")] + (
        [(reference, GREY, "-")] if base and len(curves) > 1 else []
    )
    lines += [("the authors' run", RED, ":")] if any(curve.paper for curve in curves) else []
    if min(len(curve.x) for curve in curves) >= 50:  # The steep start would leave no room for differences.
        panels[0].set_ylim(bottom=min(curve.values[:, len(curve.x) // 4 :].min() for curve in curves) - 1)
    _finish(figure, lines, f"{quantity}, %")
    return figure


def draw_rates(rates: list[Curve]) -> Figure:
    """Draw a panel per arm of learning rates against epochs, on an axis that shows both 0 and powers of ten."""
    figure, panels = _panels(rates, labels_at_top=True)
    for axes, rate in zip(panels, rates, strict=True):
        axes.plot(rate.x, rate.values[0], color=BLUE)
        axes.set_yscale("symlog", linthresh=1e-4)
    panels[0].set_ylim(-1e-5, 10 * max(rate.values.max() for rate in rates))  # A decade of room for the labels.
    _finish(figure, [], "learning rate")
    return figure


def _panels(
    curves: list[Curve], labels_at_top: bool = False, above_first: bool = False, above_others: bool = False
) -> tuple[Figure, list[Axes]]:
    """Create a panel per arm, in two columns that share their axes.

    Args:
        curves: arms.
        labels_at_top: True to write the arms' names at the top of their panels, else at the bottom.
        above_first: True to leave room for an axis above the first row.
        above_others: True to leave room for an axis above the other rows.
    """
    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    panel = PANEL if columns > 1 else 2 * PANEL
    top, gap, bottom = TOP + above_first * ABOVE, GAP + above_others * ABOVE, BOTTOM + LEGEND
    height = top + rows * panel + (rows - 1) * gap + bottom
    figure = _create_figure(height, LEFT, bottom, top)
    spaces = {"hspace": gap / panel, "wspace": 2 * GAP / (WIDTH - LEFT - RIGHT - GAP)}
    every = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=spaces).ravel()
    y, alignment = (0.95, "top") if labels_at_top else (0.05, "bottom")
    for axes, curve in zip(every, curves, strict=False):
        text = axes.text(0.97, y, curve.label, transform=axes.transAxes, ha="right", va=alignment)
        text.set(fontsize=9, weight="bold")
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    every[0].locator_params(nbins=TICKS)  # All panels share it.
    for axes in every[len(curves) :]:
        axes.remove()
    for axes in every[max(len(curves) - columns, 0) : len(curves)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("epoch", fontsize=9)
    return figure, [*every[: len(curves)]]


def _create_figure(height: float, left: float, bottom: float, top: float) -> Figure:
    """Create a figure of a height and with margins in inches."""
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left / WIDTH, bottom / height, 1 - RIGHT / WIDTH, 1 - top / height)
    return figure


def _add_operations(axes: Axes, flop: float) -> None:
    """Add an axis of operations above a panel, in a unit that gives short numbers."""
    unit, name = (1e15, "PFLOP") if flop * axes.get_xlim()[1] > 2e15 else (1e12, "TFLOP")
    scale = flop / unit

    def to_operations(epochs: Any) -> Any:
        return epochs * scale

    def to_epochs(operations: Any) -> Any:
        return operations / scale

    above = axes.secondary_xaxis("top", functions=(to_operations, to_epochs))
    above.tick_params(labelsize=8)
    above.locator_params(axis="x", nbins=TICKS)
    above.set_xlabel(name, fontsize=8, labelpad=2)


def draw_bars(bars: list[Bar], quantity: str) -> Figure:
    """Draw a bar from 0 per arm or class, with its interval. Diamonds are the paper's values."""
    has_paper = any(bar.paper is not None for bar in bars)
    top, bottom, left = 0.3, BOTTOM - 0.15 + has_paper * LEGEND, 0.2 + 0.08 * max(len(bar.label) for bar in bars)
    height = top + 0.3 * len(bars) + 0.2 + bottom
    figure = _create_figure(height, left, bottom, top)
    axes = figure.subplots()
    for position, bar in enumerate(bars):
        axes.barh(position, bar.value, color=BLUE, alpha=0.6, height=0.6)
        if bar.interval > 0:  # not NaN
            axes.errorbar(bar.value, position, xerr=bar.interval, color="black", capsize=3, linewidth=1.2)
        if bar.paper is not None:
            axes.plot(bar.paper, position, "D", color="white", markeredgecolor=RED, markersize=6, zorder=5)
    if has_paper:
        axes.plot([], [], "D", color="white", markeredgecolor=RED, label="the paper")
        figure.legend(loc="lower center", frameon=False, fontsize=9, borderaxespad=0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=9)
    axes.invert_yaxis()
    figure.suptitle(quantity, fontsize=9, y=1 - 0.08 / height)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def draw_confusion(names: Sequence[str], matrix: np.ndarray) -> Figure:
    """Draw the share (%) of each class (row) that was predicted as each class (column)."""
    percent = 100 * matrix / matrix.sum(1, keepdims=True)
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    # The diagonal has no colour, because it would use up the scale.
    mistakes = np.where(np.eye(len(names), dtype=bool), np.nan, percent)
    axes.imshow(mistakes, cmap="Reds", vmin=0)
    for (row, column), value in np.ndenumerate(percent):
        dark = row != column and value > 0.6 * np.nanmax(mistakes)
        text = f"{value:.1f}" if value < 99.95 else "100"
        colour = "white" if dark else "black" if row == column or value >= 0.05 else "#bbbbbb"
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def draw_architecture(model: ResNet, image_shape: tuple[int, int, int]) -> Figure:
    """Draw the network from top to bottom, with each part's shape, parameters and multiply-adds, and one block."""
    rows = _architecture_rows(model, image_shape)
    figure = Figure(figsize=(WIDTH, 0.74 * len(rows) + 2.9))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, hspace=0)
    axes, block_axes = figure.subplots(2, 1, height_ratios=[0.74 * len(rows) + 0.3, 2.6])
    axes.set(xlim=(0, 10), ylim=(len(rows), -0.75))
    columns = {"output": 5.5, "parameters": 7.4, "multiply-\nadds": 9.2}
    for text, x in columns.items():
        axes.text(x, -0.1, text, ha="center", va="bottom", color=GREY, fontsize=9)
    for number, (text, count, shape, parameters, cost) in enumerate(rows):
        if not shape:  # The last row holds the sums.
            axes.text(2.2, number + 0.5, text, ha="center", va="center", fontsize=9)
        else:
            if number:
                axes.annotate("", (2.2, number + 0.12), (2.2, number - 0.12), arrowprops={"arrowstyle": "->"})
            _box(axes, 0.2, number + 0.14, 4.0, 0.72, text, "#dde8f5" if count else "#f0f0f0", count)
        for x, value in zip(columns.values(), ("x".join(map(str, shape)), parameters, cost), strict=True):
            axes.text(x, number + 0.5, value, ha="center", va="center", fontsize=9)
    _draw_block(block_axes, model)
    for each in (axes, block_axes):
        each.axis("off")
    return figure


def _architecture_rows(
    model: ResNet, image_shape: tuple[int, int, int]
) -> list[tuple[str, int, tuple[int, ...], str, str]]:
    """Return text, number of blocks or 0, output shape, parameters and multiply-adds as text, for each part."""
    layers = describe_layers(model, image_shape)

    def totals(of: list[Layer]) -> tuple[str, str]:
        parameters, cost = sum(layer.parameters for layer in of), sum(layer.multiply_adds for layer in of)
        return f"{parameters:,}" if parameters else "", f"{cost / 1e6:,.1f} M" if cost else ""

    stem = [layer for layer in layers if layer.path in ("conv1", "bn1")]
    rows = [
        ("image", 0, image_shape, "", ""),
        (f"3x3 conv, {stem[0].output_shape[-1]}, BN, ReLU", 0, stem[0].output_shape, *totals(stem)),
    ]
    for stage, (channels, blocks) in enumerate(zip(model.channels, model.blocks, strict=True), 1):
        of = [layer for layer in layers if layer.path.startswith(f"layer{stage}_")]
        stride = ",\nthe first at stride 2" if stage > 1 else ""
        rows.append((f"{blocks} blocks of {channels}{stride}", blocks, of[-1].output_shape, *totals(of)))
    linear = [layer for layer in layers if layer.kind == "linear"]
    features = (linear[0].parameters - model.num_classes) // model.num_classes
    window = "global mean" if model.pooling == "global" else f"{model.pooling}x{model.pooling} mean"
    dropout = f", dropout {model.dropout_rate:g}" if model.dropout_rate else ""
    rows.append((f"{window}{dropout}", 0, (features,), "", ""))
    rows.append((f"linear to {model.num_classes}", 0, linear[0].output_shape, *totals(linear)))
    rows.append(("in all", 0, (), *totals(layers)))
    return rows


def _draw_block(axes: Axes, model: ResNet) -> None:
    """Draw a basic block from left to right, with its shortcut above if it has one."""
    size, shortcut = model.kernel_size, model.shortcut_kernel_size
    axes.set(xlim=(0, 10), ylim=(2.7, 0))
    axes.text(0.2, 0.25, "a block", color=GREY, fontsize=9, va="center")
    parts = [f"{size}x{size}\nconv", "BN", "ReLU", f"{size}x{size}\nconv", "BN", *("+" if model.skips else ""), "ReLU"]
    width, step = 1.0, 1.36
    for number, text in enumerate(parts):
        x = 0.55 + step * number
        _box(axes, x, 1.55, width, 0.8, text, "#f0f0f0" if text != "+" else "white")
        axes.annotate("", (x, 1.95), (x - (step - width), 1.95), arrowprops={"arrowstyle": "->"})
    if not model.skips:
        return
    plus = 0.55 + 5 * step + width / 2
    axes.plot([0.35, 0.35, plus], [1.95, 0.95, 0.95], color="black", linewidth=1)
    axes.annotate("", (plus, 1.55), (plus, 0.95), arrowprops={"arrowstyle": "->"})
    axes.text(
        (0.35 + plus) / 2,
        0.85,
        f"shortcut: the identity;\nwhere the shape changes, a {shortcut}x{shortcut} conv and BN",
        ha="center",
        va="bottom",
        fontsize=9,
    )


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, copies: int = 0) -> None:
    for offset in reversed(range(min(max(copies, 1), 3))):  # Several copies are drawn as a stack.
        corner = (x + 0.07 * offset, y - 0.05 * offset)
        axes.add_patch(
            FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.1", fc=colour, ec="#555555")
        )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _finish(figure: Figure, lines: list[tuple[str, str, Any]], quantity: str) -> None:
    """Add the quantity of the panels, and a legend of the given labels, colours and line styles."""
    figure.supylabel(quantity, fontsize=9)
    handles = [Line2D([], [], color=colour, linestyle=style, label=label) for label, colour, style in lines]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9, borderaxespad=0)
