"""Sections of the report on the paper's tables: rows, notes, figures, and shortened or changed runs."""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxresnet.config import Experiment, flatten
from jaxresnet.core.costs import flop_per_image
from jaxresnet.data.cifar import IMAGE_SHAPE, NUM_TRAIN
from jaxresnet.report import figures, notes
from jaxresnet.report.figures import Bar, Curve
from jaxresnet.report.groups import Group, Sweep, changed_sweeps, group_runs
from jaxresnet.report.page import Page, table
from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.report.spread import Spread, Stat
from jaxresnet.workdir.runs import Run

VALIDATION_NOTE = (
    " Here **last** and **best** are accuracies on training images that were held out; **test** is that of the best "
    "epoch on the test set, which was scored once."
)


class Study(NamedTuple):
    """Finished runs of the small study, by experiment, and the spread over their seeds."""

    groups: dict[str, Group]
    spread: Spread


class Evidence(NamedTuple):
    """Runs that a claim is judged from.

    Attributes:
        groups: runs by arm.
        spread: spread over their seeds.
        is_full: True for runs at full length, False for those of the small study.
    """

    groups: dict[str, Group]
    spread: Spread
    is_full: bool


class Table(NamedTuple):
    """A table of the paper, and the runs of its arms.

    Attributes:
        experiment: config file of the table.
        groups: groups by arm. Runs that differ in more than the seed are separate groups.
        small: finished runs of the small study, by arm. They are not in ``groups``.
        small_spread: spread over the seeds of the small study, from all of its arms, of this table or not.
    """

    experiment: Experiment
    groups: dict[str, list[Group]]
    small: dict[str, Group]
    small_spread: Spread

    @property
    def name(self) -> str:
        """Return the name of the config file, without its ending."""
        return self.experiment.path.stem

    @property
    def full(self) -> dict[str, Group]:
        """Return the finished runs that are comparable with the paper, by arm."""
        first = {
            arm: next((each for each in groups if each.is_full and each.runs), None)
            for arm, groups in self.groups.items()
        }
        return {arm: group for arm, group in first.items() if group}

    def printed(self) -> dict[str, float]:
        """Return the paper's last-epoch accuracy (%) of each arm that has one."""
        configs = {arm: self.experiment.get_config(arm).paper for arm in self.experiment.arms}
        printed = {arm: _paper(self.experiment, arm)[0] for arm, paper in configs.items() if paper.epoch != "cited"}
        return {arm: accuracy for arm, accuracy in printed.items() if accuracy is not None}

    def evidence(self, arms: Iterable[str]) -> Evidence:
        """Return the runs at full length if each of ``arms`` has at least two, else those of the small study."""
        full = self.full
        if all(arm in full and len(full[arm].runs) > 1 for arm in arms):
            return Evidence(full, _spread_of(full), True)
        return Evidence(self.small, self.small_spread, False)


def read_study(runs: list[Run], study: Experiment | None) -> Study:
    """Return the finished runs of the small study.

    Args:
        runs: all runs.
        study: config file of the study, whose arms are named as the experiments are, or None.
    """
    if study is None:
        return Study({}, Spread.of([]))
    groups: dict[str, Group] = {}
    for name in study.arms:
        unchanged = [each for each in group_runs(runs, study.get_config(name)) if each.is_full and each.runs]
        if unchanged:
            groups[name] = unchanged[0]
    return Study(groups, _spread_of(groups))


def _spread_of(groups: dict[str, Group]) -> Spread:
    return Spread.of(group.accuracy("last") for group in groups.values())


def create_table(experiment: Experiment, runs: list[Run], study: Study) -> Table:
    """Sort the runs of a table's arms into groups.

    Args:
        experiment: config file of the table.
        runs: all runs.
        study: result of ``read_study``.
    """
    ours = {run.path for group in study.groups.values() for run in (*group.runs, *group.unfinished)}
    others = [run for run in runs if run.path not in ours]
    configs = {arm: experiment.get_config(arm) for arm in experiment.arms}
    return Table(
        experiment,
        {arm: group_runs(others, config) for arm, config in configs.items()},
        {arm: study.groups[config.name] for arm, config in configs.items() if config.name in study.groups},
        study.spread,
    )


def reference_of(groups: dict[str, Group]) -> str:
    """Return the arm that others are compared with: the baseline, or the first arm if it has no runs."""
    return next((arm for arm, group in groups.items() if group.name == "baseline"), next(iter(groups)))


def add_table(page: Page, each: Table) -> None:
    """Append the section of a table: the paper's rows and ours, notes, figures, and changed runs."""
    experiment = each.experiment
    page.add(f"## {experiment.title}")
    sweeps = changed_sweeps(each.groups)
    if each.name != "headline":  # The baseline is in every table. On its own, it is shown only in the first.
        sweeps = [sweep for sweep in sweeps if any(group.name != "baseline" for group in sweep.groups.values())]
    _add_rows(page, each)
    if other_logs := notes.other_logs_note(experiment):
        page.add(other_logs)
    if note := notes.read_note(each.name):
        page.add(note)
    if each.name == "headline" and (ours := notes.selection_note([*itertools.chain(*each.groups.values())])):
        page.add(ours)
    _add_settings_rates(page, each)
    if each.full:
        paper = {arm: _paper(experiment, arm) for arm in each.full}
        _add_accuracy_figures(page, f"{each.name}-full", each.full, paper, _spread_of(each.full))
    if len(each.small) > 1:
        paper = {arm: _paper(experiment, arm) for arm in each.small}
        _add_accuracy_figures(page, f"{each.name}-small", each.small, paper, each.small_spread, is_small=True)
    for number, sweep in enumerate(sweeps, 1):
        _add_sweep(page, each, sweep, number)


def _add_rows(page: Page, each: Table) -> None:
    """Add a row per arm: the paper's figure, runs at full length in one column, and the small study."""
    experiment, small = each.experiment, each.small
    full = {arm: [group for group in groups if group.is_full] for arm, groups in each.groups.items()}
    reference = reference_of(small) if small else None
    rows = []
    for arm in experiment.arms:
        paper = experiment.get_config(arm).paper
        printed = "" if paper.accuracy is None else _as_printed(paper.accuracy)
        row = [f"`{arm}`", printed + (f" ({paper.epoch})" if paper.epoch != "last" else "")]
        if any(full.values()):
            row.append("; ".join(_at_full_length(paper, group) for group in full[arm]) or "not run")
        if small and arm not in small:
            row += ["not run", "", ""]
        elif reference:
            last, base = small[arm].accuracy("last"), small[reference].accuracy("last")
            row += [str(last), str(last.n), "" if arm == reference else _difference(last, base, each.small_spread)]
        rows.append(row)
    header = ["arm", "paper"]
    if any(full.values()):
        header.append("ours, at full length")
    else:
        page.add("No arm of this table has been run at full length yet.")
    page.add(table(header + (["small study", "n", f"against `{reference}`"] if small else []), rows))


def _at_full_length(paper: ConfigDict, group: Group) -> str:
    """Describe runs that are comparable with the paper in one cell."""
    changes = "".join(f"{value}: " for value in group.changes.values())
    if not group.runs:
        return changes + _state_of(group.unfinished)
    last, best = group.accuracy("last"), group.accuracy("best")
    text = f"{changes}{last}, best {best}, n {last.n}"
    if paper.accuracy is None:
        return text
    ours = best if paper.epoch == "best" else last
    difference = ours.mean - paper.accuracy
    mark = _mark(abs(difference) > ours.prediction_interval()) if ours.n > 1 else "one seed"
    return f"{text}, {difference:+.2f} {mark}"


def _difference(ours: Stat, reference: Stat, spread: Spread) -> str:
    """Format a difference of two arms and whether the spread of the seeds explains it."""
    difference, interval = ours.mean - reference.mean, spread.interval(ours, reference)
    return f"{difference:+.2f} " + ("one seed" if math.isnan(interval) else _mark(abs(difference) > interval))


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
    equal: dict[bytes, list[str]] = {}
    for arm, (rates, _) in hyperparams.items():
        equal.setdefault(rates.tobytes(), []).append(arm)
    curves = []
    for arm, *others in equal.values():
        rates, epochs = hyperparams[arm].learning_rate.ravel(), configs[arm].num_epochs
        points = np.unique(np.linspace(0, len(rates) - 1, 1000).astype(int))
        label = f"{arm} and {len(others)} more" if others else arm
        curves.append(Curve(label, points / len(rates) * epochs, rates[points][None]))
    page.add(
        "The learning rate that each arm trains at, computed from its settings. Arms with the same rates share a panel."
    )
    page.add(notes.rate_table(hyperparams))
    page.add_figure(f"{each.name}-rates", figures.draw_rates(curves), "learning rate of each arm against epochs")


def _add_accuracy_figures(
    page: Page,
    name: str,
    groups: dict[str, Group],
    paper: dict[str, tuple[float | None, str | None]],
    spread: Spread,
    is_small: bool = False,
) -> None:
    """Add differences from the reference arm, and curves: of training in the small study, which evaluates seldom."""
    split, reference = next(iter(groups.values())).split, reference_of(groups)
    if len(groups) > 1:
        base, printed = groups[reference].accuracy("last"), paper.get(reference, (None, None))[0]
        bars = []
        for arm, group in groups.items():
            ours, theirs = group.accuracy("last"), paper.get(arm, (None, None))[0]
            interval = 0.0 if arm == reference else spread.interval(ours, base)
            known = None if arm == reference or theirs is None or printed is None else theirs - printed
            bars.append(Bar(arm, ours.mean - base.mean, interval, known))
        figure = figures.draw_bars(bars, f"{split} accuracy of the last epoch, points above {reference}")
        page.add_figure(f"{name}-bars", figure, f"accuracy of each arm against {reference}")
    curves = []
    for arm, group in groups.items():
        epochs, accuracies = group.training_curves() if is_small else group.curves()
        if accuracies:
            curve = None if is_small else paper.get(arm, (None, None))[1]
            config = group.runs[0].config
            images = NUM_TRAIN - config.dataset.validation_size
            flop = flop_per_image(config, IMAGE_SHAPE) * images
            curves.append(Curve(arm, epochs, np.array(accuracies), read_paper_curve(curve) if curve else None, flop))
    if curves:
        quantity = "training accuracy" if is_small else f"{split} accuracy"
        figure = figures.draw_curves(curves, reference, quantity)
        page.add_figure(f"{name}-curves", figure, f"{quantity} of each arm against epochs and operations")


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
    reference = reference_of(sweep.groups)
    accuracies = {arm: group.accuracy("last") for arm, group in sweep.groups.items()}
    spread = Spread.of(accuracies.values())
    rows = []
    for arm, group in sweep.groups.items():
        last, best = accuracies[arm], group.accuracy("best")
        row = [f"`{arm}`", str(last), str(best), str(last.n), ""]
        if arm != reference:
            row[4] = _difference(last, accuracies[reference], spread)
        rows.append(row if split == "test" else [*row, str(group.test_accuracy())])
    header = ["arm", "last", "best", "n", f"against `{reference}`"]
    page.add(table(header if split == "test" else [*header, "test"], rows))
    _add_accuracy_figures(page, name, sweep.groups, {}, spread)


def format_changes(changes: dict[str, Any]) -> str:
    """Format changed fields as Markdown, such as ``num_epochs=8``."""
    return ", ".join(
        f"`{field}={tuple(value) if isinstance(value, list) else value}`" for field, value in changes.items()
    )
