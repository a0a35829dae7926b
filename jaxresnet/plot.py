"""Draw loss, accuracy and learning rate of a run, over the authors' own run if the config names one.

    jaxresnet plot --workdir=runs/final

The horizontal axis is the epoch or, with --x=pflop, the compute so far. The run need not have ended.
"""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from jaxresnet import cli, released
from jaxresnet.config import eval_split_name, load_config
from jaxresnet.data.cifar import IMAGE_SHAPE, NUM_TRAIN
from jaxresnet.report.paper_curves import Series, read_paper_curve
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import PICTURES, default_style, output_file, write_figure
from jaxresnet.workdir.folder import CURVES_FILE, data_name
from jaxresnet.workdir.log import is_epoch_line, read_metrics

if TYPE_CHECKING:  # Its import can fail, and takes a second.
    from matplotlib.axes import Axes

TRAIN_COLOUR, EVAL_COLOUR = "#4477aa", "#cc3311"


@default_style()
def plot_run(workdir: str | pathlib.Path, out: str, x: str = "epoch", force: bool = False) -> None:
    """Draw loss, accuracy and learning rate to a picture.

    Solid lines are the run's. If the config names a curve of the paper, it is dotted. Within an epoch, training metrics
    are means over the epoch so far.

    Args:
        workdir: run directory.
        out: picture to write.
        x: ``"epoch"``, or ``"pflop"`` for the floating-point operations of training so far, in 1e15. The paper's curve
            is assumed to be of the same network, on full-size images.
        force: True to overwrite an existing file.

    Raises:
        UserError: missing run, no metrics yet, a data set without known size, or a file that cannot be written.
    """
    from matplotlib.figure import Figure

    folder = user_path(workdir)
    config = load_config(folder)
    picture = output_file("--out", out, force, PICTURES)
    split = eval_split_name(config)
    lines = read_metrics(folder)
    if not lines:
        raise UserError(f"{folder} has no metrics; a run has them after log_every_steps, a release never")
    run = _run_series(lines, split)
    is_cifar10 = data_name(folder, config) == "cifar10"
    paper = read_paper_curve(config.paper.curve) if config.paper.curve and is_cifar10 else None
    if x == "pflop":
        if not is_cifar10:
            raise UserError("--x=pflop: this run is not on CIFAR-10, and the size of other data is not known")
        _to_compute(run, paper, config)

    panels = 3 if x == "epoch" else 2  # The learning rate is one of epochs.
    figure = Figure(figsize=(4 * panels, 4), layout="constrained")
    loss_axes, accuracy_axes, *rate_axes = figure.subplots(1, panels, sharex=True)
    _draw(loss_axes, "loss", run, paper, split)
    _draw(accuracy_axes, "accuracy", run, paper, split)
    loss_axes.set(title="Cross entropy")
    if max(run["train_loss"]) > 20 * min(run["train_loss"]):
        loss_axes.set_yscale("log")
    accuracy_axes.set(title="Accuracy, %")
    for axes in rate_axes:
        _plot(axes, run["rate_epoch"], run["learning_rate"], color="black")
        axes.set(title="Learning rate", ylim=(0, None))
    if run["eval_accuracy"]:
        best = int(np.argmax(run["eval_accuracy"]))
        text = f"best {split} accuracy\n{run['eval_accuracy'][best]:.2f}%, epoch {run['eval_number'][best]}"
        accuracy_axes.axhline(run["eval_accuracy"][best], color=EVAL_COLOUR, linewidth=0.5)
        accuracy_axes.text(0.98, 0.04, text, transform=accuracy_axes.transAxes, ha="right", color=EVAL_COLOUR)
    loss_axes.legend()
    for axes in figure.axes:
        axes.set_xlabel("epoch" if x == "epoch" else "compute in training, PFLOP")
        axes.grid(alpha=0.3)
        if x == "pflop":
            axes.set_xscale("log")  # a run may take a fraction of the paper's operations
    write_figure(picture, figure)


def _run_series(lines: list[dict[str, Any]], split: str) -> Series:
    epoch_lines = [line for line in lines if is_epoch_line(line)]
    # Running means restart each epoch and would draw a sawtooth, so only whole epochs are shown if there are several.
    whole = [line for line in lines if line["epoch"] == int(line["epoch"])]
    shown = whole if len(whole) > 1 else lines
    return {
        "epoch": [line["epoch"] for line in shown],
        "eval_epoch": [line["epoch"] for line in epoch_lines],
        "eval_number": [line["epoch"] for line in epoch_lines],
        "rate_epoch": [line["epoch"] for line in lines],
        "learning_rate": [line["learning_rate"] for line in lines],
        **{key: [line[key] for line in shown] for key in ("train_loss", "train_accuracy")},
        **{f"eval_{key}": [line[f"{split}_{key}"] for line in epoch_lines] for key in ("loss", "accuracy")},
    }


def _to_compute(run: Series, paper: Series | None, config: ConfigDict) -> None:
    """Replace epochs, in place, by the floating-point operations of training up to them, in 1e15."""
    # Imported here so that a mistyped flag is reported before JAX starts.
    from jaxresnet.core.costs import flop_until

    images = NUM_TRAIN - config.dataset.validation_size
    for name in ("epoch", "eval_epoch", "rate_epoch"):
        run[name] = (flop_until(config, IMAGE_SHAPE, np.array(run[name])) * images / 1e15).tolist()
    if paper:
        whole = config.copy_and_resolve_references()
        whole.augment.small_images = ()
        whole.num_epochs = int(paper["epoch"][-1])
        for name in ("epoch", "eval_epoch"):
            paper[name] = (flop_until(whole, IMAGE_SHAPE, np.array(paper[name])) * NUM_TRAIN / 1e15).tolist()


def _draw(axes: "Axes", key: str, run: Series, paper: Series | None, split: str) -> None:
    if paper:
        style: dict[str, Any] = {"linewidth": 0.9, "linestyle": ":"}
        axes.plot(paper["epoch"], paper[f"train_{key}"], color=TRAIN_COLOUR, label="train, paper", **style)
        axes.plot(paper["eval_epoch"], paper[f"eval_{key}"], color=EVAL_COLOUR, label="test, paper", **style)
    _plot(axes, run["epoch"], run[f"train_{key}"], color=TRAIN_COLOUR, label="train")
    if run["eval_epoch"]:
        _plot(axes, run["eval_epoch"], run[f"eval_{key}"], color=EVAL_COLOUR, label=split)


def _plot(axes: "Axes", x: list[float], y: list[float], **style: Any) -> None:
    """Plot a curve. If it has few points, they are marked, because a line alone could hide them."""
    axes.plot(x, y, marker="o" if len(x) < 30 else "", markersize=3, **style)


def draw(arguments: argparse.Namespace) -> None:
    """Draw the run that the flags name."""
    out = arguments.out or str(user_path(arguments.workdir) / CURVES_FILE)
    plot_run(arguments.workdir, out, arguments.x, arguments.force or not arguments.out)
    print(out)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("plot", __doc__)
    parser.add_argument("--workdir", required=True, type=released.resolve, help="run directory")
    parser.add_argument("--out", help="picture to write (default: WORKDIR/curves.png, which is overwritten)")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --out names")
    parser.add_argument("--x", choices=("epoch", "pflop"), default="epoch", help="unit of the horizontal axis")
    cli.run(draw, parser, argv)


if __name__ == "__main__":
    main()
