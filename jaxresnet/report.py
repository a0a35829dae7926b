"""Redraws the paper's tables from finished runs: ``python -m jaxresnet.report --workdir=runs --out=report``.

Everything measured comes from the runs' own folders. What the paper reports, and which arms there are, comes from the
config files.
"""

import argparse
import itertools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxresnet import cli, figures, notes
from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.config import flatten
from jaxresnet.errors import UserError, user_path
from jaxresnet.experiments import Experiment, load_experiment
from jaxresnet.figures import Bar, Curve
from jaxresnet.metrics import format_seconds
from jaxresnet.page import Page, anchor, table
from jaxresnet.plot import read_paper_curve
from jaxresnet.runs import (
    Group,
    Run,
    Stat,
    Sweep,
    changed_sweeps,
    difference_interval,
    group_runs,
    read_runs,
)
from jaxresnet.train_state import create_model

TITLE = "The paper's experiments, run again"
VALIDATION_NOTE = (
    " Here **last** and **best** are accuracies on training images that were held out; **test** is that of the best "
    "epoch on the test set, which was scored once."
)
FINAL = "final"

# The captions that mislead, by the file of their table.
NOTES: dict[str, Callable[[Experiment, dict[str, list[Group]]], str]] = {
    "headline": lambda experiment, groups: notes.selection_note(list(itertools.chain(*groups.values()))),
    "scheduler": lambda experiment, groups: notes.scheduler_note(experiment),
    "augmentation": lambda experiment, groups: notes.augmentation_note(experiment),
    "optimizer": lambda experiment, groups: notes.optimizer_note(experiment),
    "epochs": notes.epochs_note,
    "pooling": lambda experiment, groups: notes.pooling_note(experiment),
    "dropout": lambda experiment, groups: notes.dropout_note(experiment),
    "architecture": lambda experiment, groups: notes.architecture_note(experiment),
    "batch_size": lambda experiment, groups: notes.batch_size_note(experiment),
}


class Table(NamedTuple):
    """A table of the paper, and the runs of its arms.

    Attributes:
        experiment: its config file.
        groups: by arm; runs that differ in more than the seed are separate groups.
    """

    experiment: Experiment
    groups: dict[str, list[Group]]

    @property
    def name(self) -> str:
        return self.experiment.path.stem


def write_report(workdir: pathlib.Path, out: pathlib.Path, configs: pathlib.Path) -> None:
    """Writes README.md, index.html and figures/ to ``out``.

    Args:
        workdir: every run in it or below is read.
        out: an empty or new folder, or an older report, which is replaced.
        configs: the folder with a config file a table.

    Raises:
        UserError: no tables, no runs, or a folder that cannot be written.
    """
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder; give the folder of the runs")
    experiments = [load_experiment(path) for path in sorted(configs.glob("*.py")) if path.name != "arms.py"]
    experiments = sorted((e for e in experiments if e.arms != ("",)), key=lambda experiment: experiment.title)
    if not experiments:
        raise UserError(f"--configs={configs}: there are no tables in it; run from the folder that holds configs/")
    runs = read_runs(workdir)
    tables = [Table(e, {arm: group_runs(runs, e.get_config(arm)) for arm in e.arms}) for e in experiments]

    page = Page(TITLE)
    _add_introduction(page, tables, runs)
    for each in tables:
        _add_table(page, each)
    _add_final_model(page, tables)
    _add_runs(page, runs, workdir)
    page.write(out)


def _add_introduction(page: Page, tables: list[Table], runs: list[Run]) -> None:
    names = {
        config.name
        for each in tables
        for config in map(each.experiment.get_config, each.experiment.arms)
        if config.paper.accuracy is not None and config.paper.epoch != "cited"
    }
    full = {g.name for each in tables for groups in each.groups.values() for g in groups if g.is_full and g.runs}
    finished = [run for run in runs if run.summary]
    page.add(
        f"The tables of *An Implementation of the ResNet Architecture in Pytorch* (Chang and Shong), redrawn from "
        f"{len(finished)} finished runs of this project. Of the {len(names)} experiments in them, {len(full & names)} "
        "have been run here at full length; the others are listed as not run. Accuracies are in %, on the 10,000 test "
        "images of CIFAR-10 where nothing else is said."
    )
    page.add(
        "- **Ours** is the mean ± the sample standard deviation over seeds; **n** counts them. **Last** is "
        "the last epoch, **best** the best one, chosen on the test set.\n"
        "- **Difference** is ours minus the paper's figure, of the same epoch as the paper's: the last, except where "
        "it says best.\n"
        "- **Outside** marks a difference that the spread of our seeds does not explain: the paper's figure, a single "
        "run, is outside of the 95% prediction interval for one more run, mean ± t s √(1 + 1/n). One seed has no "
        "spread to judge by.\n"
        "- Runs that were shortened or changed have tables of their own and are never compared with the paper."
    )
    headings = [*(each.experiment.title for each in tables), "The final model", "The runs"]
    page.add("## Contents")
    page.add("\n".join(f"- [{heading}](#{anchor(heading)})" for heading in headings))


def _add_table(page: Page, each: Table) -> None:
    experiment = each.experiment
    page.add(f"## {experiment.title}")
    sweeps = changed_sweeps(each.groups)
    if each.name != "headline":  # the baseline stands in every table; alone, it is shown in the first
        sweeps = [sweep for sweep in sweeps if any(group.name != "baseline" for group in sweep.groups.values())]
    rows, full = [], {}
    for arm in experiment.arms:
        shown = [group for group in each.groups[arm] if group.is_full]
        not_run = "not run; see below" if any(arm in sweep.groups for sweep in sweeps) else "not run"
        rows += [_row(experiment, arm, group) for group in shown] or [_row(experiment, arm, None, not_run)]
        if finished := [group for group in shown if group.runs]:
            full[arm] = finished[0]
    page.add(table(["arm", "paper", "last", "best", "n", "difference"], rows))
    if other_logs := notes.other_logs_note(experiment):
        page.add(other_logs)
    if each.name in NOTES:
        page.add(NOTES[each.name](experiment, each.groups))
    _add_settings_rates(page, each)
    if full:
        paper = {arm: _paper(experiment, arm) for arm in full}
        _add_accuracy_figures(page, f"{each.name}-full", full, paper)
    for number, sweep in enumerate(sweeps, 1):
        _add_sweep(page, each, sweep, number)


def _row(experiment: Experiment, arm: str, group: Group | None, not_run: str = "not run") -> list[str]:
    paper = experiment.get_config(arm).paper
    printed = "" if paper.accuracy is None else _as_printed(paper.accuracy)
    if paper.epoch != "last":
        printed += f" ({paper.epoch})"
    label = f"`{arm}`"
    if group is not None and group.changes:
        label += f" ({', '.join(str(value) for value in group.changes.values())})"
    if group is None or not group.runs:
        state = not_run if group is None else _state_of(group.unfinished)
        return [label, printed, state, "", "", ""]
    last, best = group.accuracy("last"), group.accuracy("best")
    cells = [label, printed, str(last), str(best), str(last.n)]
    if paper.accuracy is None:
        return [*cells, ""]
    ours = best if paper.epoch == "best" else last
    difference = ours.mean - paper.accuracy
    mark = _mark(abs(difference) > ours.interval()) if ours.n > 1 else "one seed"
    return [*cells, f"{difference:+.2f} {mark}"]


def _as_printed(accuracy: float) -> str:
    """Two digits, but for the paper's figures that have three."""
    return f"{accuracy:.2f}" if round(accuracy, 2) == accuracy else f"{accuracy:g}"


def _mark(outside: bool) -> str:
    return "**outside**" if outside else "within"


def _state_of(unfinished: list[Run]) -> str:
    if any(run.failure for run in unfinished):
        return "diverged"
    epochs = max(len(run.epoch_lines) for run in unfinished)
    return f"unfinished: epoch {epochs} of {unfinished[0].config.num_epochs}"


def _paper(experiment: Experiment, arm: str) -> tuple[float | None, str | None]:
    """The paper's last-epoch figure and curve, which are what the figures draw."""
    paper = experiment.get_config(arm).paper
    if paper.epoch == "best":
        return read_paper_curve(paper.curve)["eval_accuracy"][-1], paper.curve
    return paper.accuracy, paper.curve


def _add_settings_rates(page: Page, each: Table) -> None:
    """The learning rate of each arm at full length, where the arms differ in it."""
    curves, kinds = [], set()
    for arm in each.experiment.arms:
        config = each.experiment.get_config(arm)
        rates = notes.hyperparams_by_epoch(config).learning_rate.ravel()
        kinds.add((config.num_epochs, *flatten(config.schedule.to_dict()).values()))
        points = np.unique(np.linspace(0, len(rates) - 1, 3000).astype(int))
        curves.append(Curve(arm, points / len(rates) * config.num_epochs, rates[points][None]))
    if len(kinds) > 1:
        page.add("The learning rate that each arm trains at, computed from its settings:")
        page.add(notes.rate_table(each.experiment, list(each.experiment.arms)))
        page.add_figure(f"{each.name}-rates", figures.draw_rates(curves), "learning rate of each arm against epochs")


def _add_accuracy_figures(
    page: Page, name: str, groups: dict[str, Group], paper: dict[str, tuple[float | None, str | None]]
) -> None:
    bars = [Bar(arm, group.accuracy("last"), paper.get(arm, (None, None))[0]) for arm, group in groups.items()]
    split = next(iter(groups.values())).split
    if len(bars) > 1:
        page.add_figure(
            f"{name}-bars", figures.draw_bars(bars, f"{split} accuracy, last epoch"), "accuracy of each arm"
        )
    curves = []
    for arm, group in groups.items():
        epochs, accuracies = group.curves()
        if accuracies:
            curve = paper.get(arm, (None, None))[1]
            curves.append(Curve(arm, epochs, np.array(accuracies), read_paper_curve(curve) if curve else None))
    if curves:
        figure = figures.draw_curves(curves, split)
        page.add_figure(f"{name}-curves", figure, f"{split} accuracy of each arm against epochs")


def _add_sweep(page: Page, each: Table, sweep: Sweep, number: int) -> None:
    """Runs that were shortened or changed: compared with each other and not with the paper."""
    epochs = each.experiment.get_config(next(iter(sweep.groups))).num_epochs
    shortened = sweep.changes.get("num_epochs", epochs) < epochs
    name, suffix = f"{each.name}-changed-{number}", f" ({number})" if number > 1 else ""
    page.add(f"### {'Shortened' if shortened else 'Changed'} runs of {each.experiment.title.lower()}{suffix}")
    split = next(iter(sweep.groups.values())).split
    page.add(
        f"Every arm has {_format_changes(sweep.changes)}, so these are not compared with the paper."
        + ("" if split == "test" else VALIDATION_NOTE)
    )
    reference = next((arm for arm, group in sweep.groups.items() if group.name == "baseline"), next(iter(sweep.groups)))
    accuracies = {arm: group.accuracy("last") for arm, group in sweep.groups.items()}
    rows = []
    for arm, group in sweep.groups.items():
        last, best = group.accuracy("last"), group.accuracy("best")
        row = [f"`{arm}`", str(last), str(best), str(last.n), ""]
        if arm != reference:
            difference = last.mean - accuracies[reference].mean
            interval = difference_interval(last, accuracies[reference], list(accuracies.values()))
            row[4] = f"{difference:+.2f} " + ("one seed" if math.isnan(interval) else _mark(abs(difference) > interval))
        rows.append(row if split == "test" else [*row, str(group.test_accuracy())])
    header = ["arm", "last", "best", "n", f"against `{reference}`"]
    page.add(table(header if split == "test" else [*header, "test"], rows))
    if len(rows) > 1:
        page.add(
            "**Outside** here: 0 is outside of the 95% confidence interval of the difference of the two means, by the "
            "seeds' spread pooled over the arms of this table."
        )
    _add_accuracy_figures(page, name, sweep.groups, {})
    if len(rows) == 1:
        return
    rates = []
    for arm, group in sweep.groups.items():
        if lines := group.runs[0].lines:
            logged = np.array([[line["learning_rate"] for line in lines]])
            rates.append(Curve(arm, [line["epoch"] for line in lines], logged))
    if rates:
        page.add("The learning rate as it was logged:")
        page.add_figure(f"{name}-rates", figures.draw_rates(rates), "logged learning rate of each arm against epochs")


def _format_changes(changes: dict[str, Any]) -> str:
    return ", ".join(
        f"`{field}={tuple(value) if isinstance(value, list) else value}`" for field, value in changes.items()
    )


def _add_final_model(page: Page, tables: list[Table]) -> None:
    page.add("## The final model")
    each = next((each for each in tables if FINAL in each.groups), None)
    if each is None:
        page.add("None of the config files has it.")
        return
    model = create_model(each.experiment.get_config(FINAL))
    page.add("Its architecture, drawn from the model itself (the paper's Figure 1):")
    page.add_figure("architecture", figures.draw_architecture(model, IMAGE_SHAPE), "the layers of the final model")
    group = next((group for group in each.groups[FINAL] if any(run.confusion for run in group.runs)), None)
    if group is None:
        page.add("No run of it has finished yet, so there is no confusion matrix.")
        return
    confusions = [run.confusion for run in group.runs if run.confusion]
    names, matrices = confusions[0][0], np.array([matrix for _, matrix in confusions])
    changes = _format_changes(group.changes)
    page.add(
        f"What it takes for what among the {group.split} images, after the last epoch, over {len(matrices)} "
        f"run{'s' if len(matrices) > 1 else ''}" + (f" with {changes}" if changes else "") + ". Each row sums to 100%."
    )
    page.add_figure("confusion", figures.draw_confusion(names, matrices.sum(0)), "confusion matrix")
    recalls = 100 * np.diagonal(matrices, axis1=1, axis2=2) / matrices.sum(2)
    page.add("The accuracy of each class:")
    bars = [Bar(name, Stat.of(column)) for name, column in zip(names, recalls.T, strict=True)]
    page.add_figure("classes", figures.draw_bars(bars, "accuracy of the class, last epoch"), "accuracy by class")


def _add_runs(page: Page, runs: list[Run], workdir: pathlib.Path) -> None:
    page.add("## The runs")
    if not runs:
        page.add("There are none yet.")
        return
    rows = []
    for run in runs:
        epochs = f"{len(run.epoch_lines)} of {run.config.num_epochs}"
        row = [f"`{run.path.relative_to(workdir)}`", str(run.config.seed), epochs]
        if run.summary:
            summary = run.summary
            row += [
                f"{summary['last']['accuracy']:.2f}",
                f"{summary['best']['accuracy']:.2f} ({summary['best']['epoch']:g})",
                format_seconds(summary["wall_seconds"]),
                f"{summary['images_per_second']:,.0f}",
                f"{summary['device_count']} x {summary['device']}",
                summary["versions"]["jax"],
            ]
        rows.append(row + [""] * (9 - len(row)))
    header = ["run", "seed", "epochs", "last", "best (epoch)", "time", "images/s", "device", "jax"]
    page.add(table(header, rows))
    failures = [f"- `{run.path.relative_to(workdir)}` diverged: {run.failure}" for run in runs if run.failure]
    if failures:
        page.add("\n".join(failures))
    fingerprints = {run.summary.get("data_fingerprint") for run in runs if run.summary} - {None}
    if len(fingerprints) > 1:
        page.add(
            f"**Not all of these runs read the same images in the same order**: their data have the checksums "
            f"{', '.join(sorted(fingerprints))}."
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxresnet.report", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--workdir", required=True, help="the folder of the runs, at any depth")
    parser.add_argument("--out", required=True, help="the folder to write README.md, index.html and figures/ to")
    parser.add_argument("--configs", default="configs", help="the folder of the config files (default: configs)")
    arguments = parser.parse_args(argv)
    with cli.command():
        out = user_path(arguments.out)
        write_report(user_path(arguments.workdir), out, user_path(arguments.configs))
        print(f"{out}/README.md, {out}/index.html")


if __name__ == "__main__":
    main()
