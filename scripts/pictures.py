"""Draw the README's two pictures: test accuracy against compute, and eight images with the shipped model's answers.

    python -m scripts.pictures

The images are the examples of the browser's page: the first of the test set of each of the first eight classes.
"""

import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import jaxresnet
from jaxresnet import released
from jaxresnet.config import load_config
from jaxresnet.core.costs import flop_until
from jaxresnet.data.cifar import IMAGE_SHAPE, NUM_TRAIN
from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.system.files import default_style
from jaxresnet.system.terminal import format_seconds
from jaxresnet.web.page import EXAMPLES, EXAMPLES_FILE
from jaxresnet.workdir.log import is_epoch_line, read_metrics

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
OUT = REPOSITORY / "docs"
RUNS = REPOSITORY / "results" / "runs"
AUTHORS = ("final", "final_try1", "final_try2", "final_try4")  # their final run, and three relatives
RECIPE = {"fast-12": None, "fast-40": None, "further": "fast-40"}  # our runs, and those whose models they began with
OURS, THEIRS = "#2b7bba", "#8a8a8a"
TICKS = (50, 70, 80, 90, 93, 95, 96)


def draw_compute() -> Figure:
    """Return a figure of test accuracy by the floating-point operations of training, the error's axis logarithmic."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    final = jaxresnet.get_config("final")
    for name in AUTHORS:
        log = read_paper_curve(name)
        compute = flop_until(final, IMAGE_SHAPE, np.array(log["eval_epoch"])) * NUM_TRAIN / 1e15
        error = 100 - np.array(log["eval_accuracy"])
        axes.plot(compute, error, color=THEIRS, linewidth=0.7)
        axes.plot(compute[-1], error[-1], "o", color=THEIRS, markersize=4)
    ends: dict[str, float] = {}  # compute after each run
    for name, before in RECIPE.items():
        config, points = load_config(RUNS / name), [*filter(is_epoch_line, read_metrics(RUNS / name))]
        epochs = np.array([line["epoch"] for line in points])
        start = ends[before] if before else 0.0
        compute = start + flop_until(config, IMAGE_SHAPE, epochs) * NUM_TRAIN / 1e15
        error = 100 - np.array([line["test_accuracy"] for line in points])
        axes.plot(compute, error, color=OURS, linewidth=1.8)
        axes.plot(compute[-1], error[-1], "o", color=OURS, markersize=7)
        time = format_seconds(points[-1]["seconds"])
        text = f"{config.num_epochs} more epochs,\n{time}" if before else f"{config.num_epochs} epochs, {time}"
        offset, side = ((10, -10), "left") if before else ((-10, 0), "right")
        axes.annotate(text, (compute[-1], error[-1]), offset, textcoords="offset points", color=OURS, ha=side)
        ends[name] = compute[-1]
    axes.text(0.23, 4.6, "this project, two CPU cores:\nsmall images first, whole ones last", color=OURS, va="center")
    axes.text(10.5, 30, "the authors' final run and three\nrelatives, 200 epochs", color="#666666", va="center")
    axes.set(xscale="log", yscale="log", ylim=(60, 3.6), xlim=(0.2, 60))
    axes.set(xlabel="compute in training, PFLOP", ylabel="test accuracy, %")
    axes.set_yticks([100 - tick for tick in TICKS], map(str, TICKS))
    axes.minorticks_off()
    ticks = (0.5, 1, 5, 10, 48)
    axes.set_xticks(ticks, map(str, ticks))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_answers() -> Figure:
    """Return a figure of eight test images, with the most probable class and its probability."""
    strip = np.asarray(Image.open(released.MODELS[released.DEFAULT] / EXAMPLES_FILE))
    images = np.stack(np.split(strip, EXAMPLES, axis=1))
    classifier = jaxresnet.load()
    figure = Figure(figsize=(10, 1.6), layout="constrained")
    for axes, image, row in zip(figure.subplots(1, EXAMPLES), images, classifier.probabilities(images), strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(f"{classifier.class_names[row.argmax()]} {100 * row.max():.0f}%", fontsize=10)
        axes.axis("off")
    return figure


def main() -> None:
    """Draw both."""
    with default_style(), matplotlib.rc_context({"svg.hashsalt": "jaxresnet"}):
        draw_compute().savefig(OUT / "compute.svg", metadata={"Date": None})
        draw_answers().savefig(OUT / "answers.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
