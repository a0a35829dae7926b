"""Runs read back from their folders, and what several of them say together."""

import math
import pathlib
import statistics
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from scipy import stats

from jaxresnet.config import CONFIG_FILE, changed_fields, eval_split_name, flatten, load_config
from jaxresnet.errors import UserError
from jaxresnet.metrics import is_epoch_line, read_metrics
from jaxresnet.release_files import is_release
from jaxresnet.run_files import read_confusion, read_failure, read_imported, read_summary

# Two runs that differ in these alone are the same experiment.
NOT_COMPARED = ("seed", "dtype")


class Run(NamedTuple):
    """A run, as far as it has come.

    Attributes:
        path: its folder.
        config: that it was started with.
        lines: of ``metrics.jsonl``.
        summary: None where it has not finished.
        failure: why it diverged, where it did.
        confusion: names of the classes, and the confusion matrix of the last epoch; None where there is none.
    """

    path: pathlib.Path
    config: ConfigDict
    lines: list[dict[str, Any]]
    summary: dict[str, Any] | None
    confusion: tuple[list[str], list[list[int]]] | None
    failure: str | None

    @property
    def epoch_lines(self) -> list[dict[str, Any]]:
        """The lines of epochs that were evaluated."""
        return [line for line in self.lines if is_epoch_line(line)]

    @property
    def epochs_done(self) -> int:
        """How many whole epochs the run has trained."""
        return int(self.lines[-1]["epoch"]) if self.lines else 0


def read_runs(folder: pathlib.Path) -> list[Run]:
    """Every run in ``folder`` or below, in the order of their paths. What cannot be read is named on stderr."""
    runs = []
    for path in sorted(file.parent for file in folder.rglob(CONFIG_FILE)):
        try:
            runs.append(_read_run(path))
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
    return runs


def _read_run(path: pathlib.Path) -> Run:
    if is_release(path):
        raise UserError(f"{path} is a release, and no run")
    if read_imported(path):
        raise UserError(f"{path} began with imported weights, so it is no run of its config alone")
    config, summary = load_config(path), read_summary(path)
    lines = read_metrics(path, eval_split_name(config))
    return Run(path, config, lines, summary, read_confusion(path), read_failure(path))


class Stat(NamedTuple):
    """Mean and sample standard deviation of ``n`` values; of a single value there is no deviation, and it is NaN."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Stat":
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))

    def interval(self, confidence: float = 0.95) -> float:
        """Half the width of the prediction interval: where one further run would lie with this probability, were it
        drawn as these were. ``t sd sqrt(1 + 1/n)``, with Student's t at n - 1 degrees of freedom; NaN for one run."""
        if self.n < 2:
            return math.nan
        return stats.t.ppf((1 + confidence) / 2, self.n - 1) * self.sd * math.sqrt(1 + 1 / self.n)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.sd:.2f}" if self.n > 1 else "")


def difference_interval(first: Stat, second: Stat, pool: list[Stat], confidence: float = 0.95) -> float:
    """Half the width of the confidence interval of the difference of two means, by Student's t at a variance pooled
    over ``pool``, which few seeds an arm need; NaN where no arm has two."""
    freedom = sum(stat.n - 1 for stat in pool)
    if freedom == 0:
        return math.nan
    variance = sum((stat.n - 1) * stat.sd**2 for stat in pool if stat.n > 1) / freedom
    return stats.t.ppf((1 + confidence) / 2, freedom) * math.sqrt(variance * (1 / first.n + 1 / second.n))


class Group(NamedTuple):
    """The runs of one arm that differ in their seed alone.

    Attributes:
        name: of the experiment.
        changes: what these runs change of the arm, by field: nothing, or such as ``{"num_epochs": 20}``.
        runs: finished ones, one for each seed.
        unfinished: the others.
    """

    name: str
    changes: dict[str, Any]
    runs: list[Run]
    unfinished: list[Run]

    @property
    def is_full(self) -> bool:
        """Whether these may be compared with the paper: the arm as it is, in whatever precision."""
        return not set(self.changes) - set(NOT_COMPARED)

    @property
    def num_epochs(self) -> int:
        return (self.runs or self.unfinished)[0].config.num_epochs

    @property
    def split(self) -> str:
        """What the epochs were evaluated on: ``"test"``, or ``"validation"`` images held out from training."""
        return eval_split_name((self.runs or self.unfinished)[0].config)

    def accuracy(self, epoch: str) -> Stat:
        """Of the ``"last"`` or the ``"best"`` epoch, in %, on ``split``."""
        return Stat.of(run.summary[epoch]["accuracy"] for run in self.runs if run.summary)

    def test_accuracy(self) -> Stat:
        """Of the epoch that was the best on held-out training images, in %, on the test set."""
        return Stat.of(run.summary["test"]["test_accuracy"] for run in self.runs if run.summary)

    def curves(self) -> tuple[list[int], list[list[float]]]:
        """Evaluated epochs, and the accuracy on ``split`` after each, in %, of every run whose log is complete."""
        config = (self.runs or self.unfinished)[0].config
        every, last = config.eval_every_epochs, self.num_epochs
        epochs = [epoch for epoch in range(1, last + 1) if epoch % every == 0 or epoch == last]
        whole = [run.epoch_lines for run in self.runs if len(run.epoch_lines) == len(epochs)]
        return epochs, [[line[f"{self.split}_accuracy"] for line in log] for log in whole]


class Sweep(NamedTuple):
    """Runs of several arms that have the same fields changed, such as ``num_epochs``.

    Attributes:
        changes: those fields, as they are in all of the runs.
        groups: by arm.
    """

    changes: dict[str, Any]
    groups: dict[str, Group]


def group_runs(runs: list[Run], arm: ConfigDict) -> list[Group]:
    """The runs of ``arm``, by what they change of it; those that may be compared with the paper come first, then the
    longest."""
    groups: dict[str, Group] = {}
    for run in runs:
        if run.config.get("name") != arm.name:
            continue
        changes = {field: value for field, value in changed_fields(run.config, arm).items() if field != "seed"}
        group = groups.setdefault(repr(changes), Group(arm.name, changes, [], []))
        if run.summary is None:
            group.unfinished.append(run)
        elif run.config.seed not in [other.config.seed for other in group.runs]:  # the same run, kept twice, is one
            group.runs.append(run)

    def order(group: Group) -> tuple[bool, int, int, str]:
        return not group.is_full, -group.num_epochs, len(group.changes), repr(group.changes)

    return sorted(groups.values(), key=order)


def changed_sweeps(groups: dict[str, list[Group]]) -> list[Sweep]:
    """The finished runs of a table that are not as the paper's, those together that have the same changes.

    An arm may have one of the changed values by itself, and then does not count it as a change.
    """
    changed = [(arm, group) for arm in groups for group in groups[arm] if not group.is_full and group.runs]
    sweeps: list[Sweep] = []
    for arm, group in sorted(changed, key=lambda item: -len(item[1].changes)):
        fields = flatten(group.runs[0].config.to_dict())
        for sweep in sweeps:
            same = all(fields.get(field) == value for field, value in sweep.changes.items())
            if arm not in sweep.groups and same and set(group.changes) <= set(sweep.changes):
                sweep.groups[arm] = group
                break
        else:
            sweeps.append(Sweep(group.changes, {arm: group}))
    # In the table's own order.
    return [Sweep(s.changes, {arm: s.groups[arm] for arm in groups if arm in s.groups}) for s in sweeps]
