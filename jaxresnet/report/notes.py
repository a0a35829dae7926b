"""Notes on the paper's tables: prose from ``notes.md``, and numbers from settings, logs and runs."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from jaxresnet.config import Experiment
from jaxresnet.core.schedules import Hyperparams, create_hyperparams_fn
from jaxresnet.data.cifar import NUM_TRAIN
from jaxresnet.report.groups import Group
from jaxresnet.report.page import table
from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.report.spread import Stat


def read_note(name: str) -> str:
    """Return the note on a table in Markdown, or an empty text if there is none.

    Args:
        name: name of the table's config file, without its ending.
    """
    text = pathlib.Path(__file__).with_name("notes.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0].strip()


def hyperparams_by_epoch(config: ConfigDict) -> Hyperparams:
    """Compute learning rate and momentum of every step on CIFAR-10, each (epochs, steps per epoch)."""
    steps_per_epoch = -(-NUM_TRAIN // config.batch_size)
    steps = np.arange(config.num_epochs * steps_per_epoch).reshape(config.num_epochs, steps_per_epoch)
    return create_hyperparams_fn(config, steps_per_epoch)(steps)


def rate_table(hyperparams: dict[str, Hyperparams]) -> str:
    """Format a table of each arm's learning rates, and of its momenta if any arm varies them.

    Args:
        hyperparams: results of ``hyperparams_by_epoch``, by arm.
    """
    moving = any(np.ptp(momenta) > 0 for _, momenta in hyperparams.values())
    rows = []
    for arm, (rates, momenta) in hyperparams.items():
        at_zero = int((rates.max(1) < 1e-12).sum())
        row = [
            f"`{arm}`",
            f"{rates[0, 0]:.3g}",
            f"{rates.max():.3g}",
            f"{rates[-1, -1]:.3g}",
            f"{at_zero} of {len(rates)}",
        ]
        low, high = f"{momenta.min():.4g}", f"{momenta.max():.4g}"
        rows.append([*row, low if low == high else f"{low} to {high}"] if moving else row)
    header = ["arm", "first step", "highest", "last step", "epochs at 0"]
    return table([*header, "momentum"] if moving else header, rows)


def other_logs_note(experiment: Experiment) -> str:
    """Name the authors' logs that do not end at the printed figure. Return an empty text if there are none."""
    sentences = []
    for arm in experiment.arms:
        paper = experiment.get_config(arm).paper
        if paper.curve and paper.epoch == "last":
            last = read_paper_curve(paper.curve)["eval_accuracy"][-1]
            if abs(last - paper.accuracy) > 0.011:  # A smaller difference is rounding.
                sentences.append(
                    f"The log that survives of `{arm}` ends at {last:.2f}, so it is of another run than the one "
                    "printed."
                )
    return " ".join(sentences)


def selection_note(groups: list[Group]) -> str:
    """State the gain from choosing the best epoch on the test set in our runs. Return an empty text without runs."""
    sentences = []
    for is_full, what in ((True, "at full length"), (False, "that are shortened or changed")):
        gains = [
            run.summary["best"]["accuracy"] - run.summary["last"]["accuracy"]
            for group in groups
            for run in group.runs
            if group.is_full == is_full and group.split == "test" and run.summary
        ]
        if gains:
            sentences.append(
                f"In our {len(gains)} runs of this table {what}, choosing the best epoch on the test set gains "
                f"{Stat.of(gains)} points, at most {max(gains):.2f}."
            )
    return " ".join(sentences)
