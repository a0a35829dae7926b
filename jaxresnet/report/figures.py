"""Figures of the report, drawn with matplotlib to be legible at the width of a phone."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from jaxresnet.core.layers import Layer, describe_layers
from jaxresnet.core.model import ResNet
from jaxresnet.report.groups import Stat
from jaxresnet.report.paper_curves import Series

WIDTH = 6.4  # inches
GREY = "#777777"


class Curve(NamedTuple):
    """Curve of an arm.

    Attributes:
        label: name of the arm.
        x: epochs.
        values: values at these epochs, (seeds, epochs).
        paper: authors' own curve, or None if it is lost or not comparable.
    """

    label: str
    x: Sequence[float]
    values: np.ndarray
    paper: Series | None = None


class Bar(NamedTuple):
    """Accuracy of an arm, and the paper's if the two are comparable."""

    label: str
    accuracy: Stat
    paper: float | None = None


def style_of(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """Return colour and dashes of an arm. A corrected arm has the colour of its faithful twin, dashed."""
    families = list(dict.fromkeys(_family(other) for other in labels))
    colours = matplotlib.color_sequences["tab10" if len(families) <= 10 else "tab20"]
    dashes = {"": "-", "_fixed": "--", "_fixed_warmup": "-."}
    return {
        "color": colours[families.index(_family(label)) % len(colours)],
        "linestyle": dashes.get(label.removeprefix(_family(label)), "-."),
    }


def _family(label: str) -> str:
    return label.removesuffix("_warmup").removesuffix("_fixed")


def draw_curves(curves: list[Curve], split: str) -> Figure:
    """Draw each arm's accuracy: mean over seeds, band from lowest to highest, and the authors' own run dotted."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    labels = [curve.label for curve in curves]
    for curve in curves:
        style = style_of(curve.label, labels)
        marker = "o" if len(curve.x) < 20 else None
        axes.plot(curve.x, curve.values.mean(0), **style, label=curve.label, marker=marker, markersize=3)
        if len(curve.values) > 1:
            low, high = curve.values.min(0), curve.values.max(0)
            axes.fill_between(curve.x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        if curve.paper:
            axes.plot(
                curve.paper["eval_epoch"], curve.paper["eval_accuracy"], color=style["color"], ls=":", linewidth=0.8
            )
    if any(curve.paper for curve in curves):
        axes.plot([], [], color=GREY, linestyle=":", linewidth=0.8, label="the authors' run")
    axes.set(xlabel="epoch", ylabel=f"{split} accuracy, %")
    if min(len(curve.x) for curve in curves) >= 50:  # The steep start would leave no room for differences.
        axes.set_ylim(bottom=min(curve.values[:, len(curve.x) // 4 :].min() for curve in curves) - 1)
    _finish(figure, axes, len(labels))
    return figure


def draw_rates(rates: list[Curve]) -> Figure:
    """Draw learning rates against epochs, on an axis that shows both 0 and powers of ten."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = [rate.label for rate in rates]
    for number, rate in enumerate(rates):
        # Earlier lines are wider, so that lines that coincide are all visible.
        width = 1.2 + 2.4 * (len(rates) - 1 - number) / max(len(rates) - 1, 1)
        axes.plot(rate.x, rate.values[0], **style_of(rate.label, labels), label=rate.label, linewidth=width, alpha=0.85)
    axes.set_yscale("symlog", linthresh=1e-4)
    axes.set_ylim(-1e-5, None)
    axes.set(xlabel="epoch", ylabel="learning rate")
    _finish(figure, axes, len(labels))
    return figure


def draw_bars(bars: list[Bar], quantity: str) -> Figure:
    """Draw one bar per arm, with the sample standard deviation over seeds. Diamonds are the paper's figures."""
    figure = Figure(figsize=(WIDTH, 1.1 + 0.38 * len(bars)), layout="constrained")
    axes = figure.subplots()
    labels = [bar.label for bar in bars]
    errors = [0.0 if bar.accuracy.n < 2 else bar.accuracy.sd for bar in bars]
    shown = [bar.accuracy.mean + sign * error for bar, error in zip(bars, errors, strict=True) for sign in (-1, 1)]
    shown += [bar.paper for bar in bars if bar.paper is not None]
    spread = max(max(shown) - min(shown), 0.5)
    left = max(0.0, math.floor(min(shown) - 0.25 * spread))
    for position, bar in enumerate(bars):
        mean = bar.accuracy.mean
        colour = style_of(bar.label, labels)["color"]
        axes.barh(position, mean - left, left=left, color=colour, alpha=0.75, height=0.62)
        if bar.accuracy.n > 1:
            axes.errorbar(mean, position, xerr=errors[position], color="black", capsize=3, linewidth=1.2)
        axes.text(1.015, position, str(bar.accuracy), transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        if bar.paper is not None:
            axes.plot(bar.paper, position, "D", color="white", markeredgecolor="black", markersize=6, zorder=5)
    if any(bar.paper is not None for bar in bars):
        axes.plot([], [], "D", color="white", markeredgecolor="black", label="the paper")
        figure.legend(loc="outside lower center", frameon=False)
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    axes.set_xlim(left, max(shown) + 0.08 * spread)
    axes.set_xlabel(f"{quantity}, %" + (f" (the axis starts at {left:.0f})" if left else ""))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def draw_confusion(names: Sequence[str], matrix: np.ndarray) -> Figure:
    """Draw the share (%) of each class (row) that was predicted as each class (column)."""
    percent = 100 * matrix / matrix.sum(1, keepdims=True)
    figure = Figure(figsize=(WIDTH, 5.8), layout="constrained")
    axes = figure.subplots()
    # The diagonal has no colour, because it would use up the scale.
    mistakes = np.where(np.eye(len(names), dtype=bool), np.nan, percent)
    image = axes.imshow(mistakes, cmap="Reds", vmin=0)
    for (row, column), value in np.ndenumerate(percent):
        dark = row != column and value > 0.6 * np.nanmax(mistakes)
        text = f"{value:.1f}" if value < 99.95 else "100"
        colour = "white" if dark else "black" if row == column or value >= 0.05 else "#bbbbbb"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, shrink=0.75, label="mistakes, % of the class")
    return figure


def draw_architecture(model: ResNet, image_shape: tuple[int, int, int]) -> Figure:
    """Draw the network from top to bottom, with each part's shape, parameters and multiply-adds, and one block."""
    rows = _architecture_rows(model, image_shape)
    figure = Figure(figsize=(WIDTH, 0.74 * len(rows) + 2.9), layout="constrained")
    axes, block_axes = figure.subplots(2, 1, height_ratios=[0.74 * len(rows) + 0.3, 2.6])
    axes.set(xlim=(0, 10), ylim=(len(rows), -0.75))
    axes.text(6.35, -0.45, "output", ha="center", color=GREY, fontsize=9)
    axes.text(8.0, -0.45, "parameters", ha="center", color=GREY, fontsize=9)
    axes.text(9.4, -0.45, "multiply-adds", ha="center", color=GREY, fontsize=9)
    for number, (text, count, shape, parameters, cost) in enumerate(rows):
        if not shape:  # The last row holds the sums.
            axes.text(2.6, number + 0.5, text, ha="center", va="center", fontsize=9)
        else:
            if number:
                axes.annotate("", (2.6, number + 0.12), (2.6, number - 0.12), arrowprops={"arrowstyle": "->"})
            _box(axes, 0.2, number + 0.14, 4.8, 0.72, text, "#dde8f5" if count else "#f0f0f0", count)
        for x, value in ((6.35, "x".join(map(str, shape))), (8.0, parameters), (9.4, cost)):
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
        stride = ", the first at stride 2" if stage > 1 else ""
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
        f"shortcut: the identity; where the shape changes, a {shortcut}x{shortcut} conv and BN",
        ha="center",
        va="bottom",
        fontsize=8.5,
    )


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, copies: int = 0) -> None:
    for offset in reversed(range(min(max(copies, 1), 3))):  # Several copies are drawn as a stack.
        corner = (x + 0.07 * offset, y - 0.05 * offset)
        axes.add_patch(
            FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.1", fc=colour, ec="#555555")
        )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _finish(figure: Figure, axes: Axes, labels: int) -> None:
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3 if labels > 4 else 2, frameon=False, fontsize=9)
