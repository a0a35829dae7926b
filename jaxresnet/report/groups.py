"""Groups of runs that belong together."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxresnet.config import changed_fields, eval_split_name, flatten
from jaxresnet.data.cifar import CIFAR10
from jaxresnet.report.spread import Stat
from jaxresnet.workdir.runs import Run

# Fields that may differ between runs of the same experiment.
NOT_COMPARED = ("seed", "dtype")


class Group(NamedTuple):
    """Runs of one arm that differ only in their seed.

    Attributes:
        name: name of the experiment.
        changes: fields that differ from the arm's config, with their values, such as ``{"num_epochs": 20}``.
        runs: finished runs, one per seed.
        unfinished: other runs.
    """

    name: str
    changes: dict[str, Any]
    runs: list[Run]
    unfinished: list[Run]

    @property
    def is_full(self) -> bool:
        """Return True if the runs are comparable with the paper: the arm unchanged, in any precision."""
        return not set(self.changes) - set(NOT_COMPARED)

    @property
    def num_epochs(self) -> int:
        """Return the number of epochs in the config of these runs."""
        return (self.runs or self.unfinished)[0].config.num_epochs

    @property
    def split(self) -> str:
        """Return the split of the evaluations: ``"test"``, or ``"validation"`` for held-out training images."""
        return eval_split_name((self.runs or self.unfinished)[0].config)

    def accuracy(self, epoch: str) -> Stat:
        """Return the accuracy (%) on ``split`` after the ``"last"`` or the ``"best"`` epoch."""
        return Stat.of(run.summary[epoch]["accuracy"] for run in self.runs if run.summary)

    def test_accuracy(self) -> Stat:
        """Return the test accuracy (%) of the epoch that was best on held-out training images."""
        return Stat.of(run.summary["test"]["test_accuracy"] for run in self.runs if run.summary)

    def curves(self) -> tuple[list[int], list[list[float]]]:
        """Return evaluated epochs, and the accuracy (%) on ``split`` after each for every run with a complete log."""
        config = (self.runs or self.unfinished)[0].config
        every, last = config.eval_every_epochs, self.num_epochs
        epochs = [epoch for epoch in range(1, last + 1) if epoch % every == 0 or epoch == last]
        whole = [run.epoch_lines for run in self.runs if len(run.epoch_lines) == len(epochs)]
        return epochs, [[line[f"{self.split}_accuracy"] for line in log] for log in whole]

    def training_curves(self) -> tuple[list[int], list[list[float]]]:
        """Return all epochs, and the mean training accuracy (%) in each for every run with a complete log."""
        epochs = list(range(1, self.num_epochs + 1))
        logs = [
            [line["train_accuracy"] for line in run.lines if line["epoch"] == int(line["epoch"])] for run in self.runs
        ]
        return epochs, [log for log in logs if len(log) == len(epochs)]


class Sweep(NamedTuple):
    """Runs of several arms with the same changed fields, such as ``num_epochs``.

    Attributes:
        changes: changed fields, with their values in all of the runs.
        groups: groups by arm.
    """

    changes: dict[str, Any]
    groups: dict[str, Group]


def group_runs(runs: list[Run], arm: ConfigDict) -> list[Group]:
    """Group the runs of ``arm`` by their changes. Groups comparable with the paper come first, then the longest."""
    groups: dict[str, Group] = {}
    for run in runs:
        if run.config.get("name") != arm.name:
            continue
        changes = {field: value for field, value in changed_fields(run.config, arm).items() if field != "seed"}
        if run.summary and run.summary.get("data_fingerprint", CIFAR10.fingerprint) != CIFAR10.fingerprint:
            changes["dataset"] = "other images"
        group = groups.setdefault(repr(changes), Group(arm.name, changes, [], []))
        if run.summary is None:
            group.unfinished.append(run)
        elif run.config.seed not in [other.config.seed for other in group.runs]:  # A run kept twice counts once.
            group.runs.append(run)

    def order(group: Group) -> tuple[bool, int, int, str]:
        return not group.is_full, -group.num_epochs, len(group.changes), repr(group.changes)

    return sorted(groups.values(), key=order)


def changed_sweeps(groups: dict[str, list[Group]]) -> list[Sweep]:
    """Collect the finished runs of a table that are not comparable with the paper, by their changes.

    If an arm's own config already has a changed value, it is not counted as a change for that arm.
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
    # Arms return to the table's order.
    return [Sweep(s.changes, {arm: s.groups[arm] for arm in groups if arm in s.groups}) for s in sweeps]
