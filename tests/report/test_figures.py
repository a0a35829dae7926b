"""Figures of the report: a panel per arm, bars from 0."""

import math

import numpy as np
import pytest

from jaxresnet.report.figures import Bar, Curve, draw_bars, draw_curves, draw_rates


def curve(label, last, seeds=2, flop=None, paper=None):
    values = np.linspace(10, last, 5) + np.arange(seeds)[:, None]
    return Curve(label, [1, 2, 3, 4, 5], values, paper, flop)


def labels_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_each_arm_has_a_panel_that_repeats_the_reference_in_grey():
    figure = draw_curves([curve("sgd", 60), curve("adam", 50), curve("radam", 55)], "sgd", "validation accuracy")
    assert labels_of(figure) == ["sgd", "adam", "radam"]
    means = [[line.get_ydata()[-1] for line in axes.lines] for axes in figure.axes]
    assert means == [[60.5], [60.5, 50.5], [60.5, 55.5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["this arm", "sgd"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_the_authors_run_is_dotted():
    paper = {"eval_epoch": [1, 5], "eval_accuracy": [40.0, 95.0]}
    figure = draw_curves([curve("sgd", 60, paper=paper), curve("adam", 50)], "sgd", "test accuracy")
    (dotted,) = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert dotted.get_ydata()[-1] == 95.0
    assert "the authors' run" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("flops", "axes", "name"),
    [((2e11,) * 3, 2, "TFLOP"), ((2e14,) * 3, 2, "TFLOP"), ((1e15,) * 3, 2, "PFLOP"), ((2e11, 2e11, 4e11), 3, "TFLOP")],
)
def test_an_axis_of_operations_stands_above(flops, axes, name):
    """It is above the first row, or above each panel if arms differ in the operations of an epoch."""
    figure = draw_curves([curve(str(number), 50, flop=flop) for number, flop in enumerate(flops)], "0", "accuracy")
    above = [child for panel in figure.axes for child in panel.child_axes]
    assert [each.get_xlabel() for each in above] == [name] * axes


def test_rates_have_a_panel_each_and_no_legend():
    figure = draw_rates([Curve(label, [0, 1, 2], np.array([[0.1, 0.05, 0.0]])) for label in "abcde"])
    assert labels_of(figure) == list("abcde") and not figure.legends
    assert all(axes.get_yscale() == "symlog" for axes in figure.axes)


def test_bars_begin_at_zero_and_have_intervals():
    figure = draw_bars([Bar("a", 0.0, 0.0), Bar("b", -3.0, 1.0, -2.0), Bar("c", 2.0, math.nan)], "points")
    (axes,) = figure.axes
    assert [patch.get_x() for patch in axes.patches] == [0, 0, 0]
    assert [patch.get_width() for patch in axes.patches] == [0.0, -3.0, 2.0]
    (interval,) = [segment for bar in axes.collections for segment in bar.get_segments()]
    assert interval[:, 0].tolist() == [-4.0, -2.0]
    (diamond,) = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert diamond.get_xdata().tolist() == [-2.0]
