"""Sections of the report on the paper's tables: rows, notes, figures, and shortened or changed runs."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from jaxresnet.cli.config_files import Experiment
from jaxresnet.report import figures, notes
from jaxresnet.report.figures import Bar, Curve
from jaxresnet.report.groups import Group, Sweep, changed_sweeps, difference_interval
from jaxresnet.report.page import Page, table
from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.workdir.config import flatten
from jaxresnet.workdir.runs import Run

VALIDATION_NOTE = (
    " Here **last** and **best** are accuracies on training images that were held out; **test** is that of the best "
    "epoch on the test set, which was scored once."
)


class Table(NamedTuple):
    """A table of the paper, and the runs of its arms.

    Attributes:
        experiment: config file of the table.
        groups: groups by arm. Runs that differ in more than the seed are separate groups.
    """

    experiment: Experiment
    groups: dict[str, list[Group]]

    @property
    def name(self) -> str:
        """Return the name of the config file, without its ending."""
        return self.experiment.path.stem


def add_table(page: Page, each: Table) -> None:
    """Append the section of a table: the paper's rows and ours, notes, figures, and changed runs."""
    experiment = each.experiment
    page.add(f"## {experiment.title}")
    sweeps = changed_sweeps(each.groups)
    if each.name != "headline":  # The baseline is in every table. On its own, it is shown only in the first.
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
    if note := notes.read_note(each.name):
        page.add(note)
    if each.name == "headline" and (ours := notes.selection_note([*itertools.chain(*each.groups.values())])):
        page.add(ours)
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
    """Format an accuracy with two digits, or with all of them if the paper printed more."""
    return f"{accuracy:.2f}" if round(accuracy, 2) == accuracy else f"{accuracy:g}"


def _mark(outside: bool) -> str:
    return "**outside**" if outside else "within"


def _state_of(unfinished: list[Run]) -> str:
    if any(run.failure for run in unfinished):
        return "diverged"
    epochs = max(run.epochs_done for run in unfinished)
    return f"unfinished: epoch {epochs} of {unfinished[0].config.num_epochs}"


def _paper(experiment: Experiment, arm: str) -> tuple[float | None, str | None]:
    """Return the paper's last-epoch accuracy and the name of its curve, for the figures."""
    paper = experiment.get_config(arm).paper
    if paper.epoch == "best":
        return read_paper_curve(paper.curve)["eval_accuracy"][-1], paper.curve
    return paper.accuracy, paper.curve


def _add_settings_rates(page: Page, each: Table) -> None:
    """Add the learning rate of each arm at full length, if the arms differ in it."""
    configs = {arm: each.experiment.get_config(arm) for arm in each.experiment.arms}
    kinds = {(config.num_epochs, *flatten(config.schedule.to_dict()).values()) for config in configs.values()}
    if len(kinds) == 1:
        return
    hyperparams = {arm: notes.hyperparams_by_epoch(config) for arm, config in configs.items()}
    curves = []
    for arm, config in configs.items():
        rates = hyperparams[arm].learning_rate.ravel()
        points = np.unique(np.linspace(0, len(rates) - 1, 3000).astype(int))
        curves.append(Curve(arm, points / len(rates) * config.num_epochs, rates[points][None]))
    page.add("The learning rate that each arm trains at, computed from its settings:")
    page.add(notes.rate_table(hyperparams))
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
    """Add runs that were shortened or changed. They are compared with each other, not with the paper."""
    epochs = each.experiment.get_config(next(iter(sweep.groups))).num_epochs
    shortened = sweep.changes.get("num_epochs", epochs) < epochs
    name, suffix = f"{each.name}-changed-{number}", f" ({number})" if number > 1 else ""
    page.add(f"### {'Shortened' if shortened else 'Changed'} runs of {each.experiment.title.lower()}{suffix}")
    split = next(iter(sweep.groups.values())).split
    page.add(
        f"Every arm has {format_changes(sweep.changes)}, so these are not compared with the paper."
        + ("" if split == "test" else VALIDATION_NOTE)
    )
    reference = next((arm for arm, group in sweep.groups.items() if group.name == "baseline"), next(iter(sweep.groups)))
    accuracies = {arm: group.accuracy("last") for arm, group in sweep.groups.items()}
    rows = []
    for arm, group in sweep.groups.items():
        last, best = accuracies[arm], group.accuracy("best")
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
            "**Outside** means here that 0 is outside of the 95% confidence interval of the difference of the two "
            "means. The interval uses the spread of the seeds, pooled over the arms of this table."
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


def format_changes(changes: dict[str, Any]) -> str:
    """Format changed fields as Markdown, such as ``num_epochs=8``."""
    return ", ".join(
        f"`{field}={tuple(value) if isinstance(value, list) else value}`" for field, value in changes.items()
    )
