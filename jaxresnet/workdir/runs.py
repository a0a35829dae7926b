"""Read finished and unfinished runs from their directories."""

import pathlib
import sys
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxresnet.system.errors import UserError
from jaxresnet.config import eval_split_name, load_config
from jaxresnet.workdir.files import read_confusion, read_failure, read_imported, read_summary
from jaxresnet.workdir.log import is_epoch_line, read_metrics
from jaxresnet.workdir.names import CONFIG_FILE
from jaxresnet.workdir.release import is_release


class Run(NamedTuple):
    """A run, finished or not.

    Attributes:
        path: run directory.
        config: config of the run.
        lines: lines of ``metrics.jsonl``.
        summary: content of ``summary.json``, or None if the run has not finished.
        confusion: class names, and confusion matrix of the last epoch, or None if the run has not finished.
        failure: reason why the run diverged, or None.
    """

    path: pathlib.Path
    config: ConfigDict
    lines: list[dict[str, Any]]
    summary: dict[str, Any] | None
    confusion: tuple[list[str], list[list[int]]] | None
    failure: str | None

    @property
    def epoch_lines(self) -> list[dict[str, Any]]:
        """Last line of each evaluated epoch."""
        return [line for line in self.lines if is_epoch_line(line)]

    @property
    def epochs_done(self) -> int:
        """Number of whole epochs trained."""
        return int(self.lines[-1]["epoch"]) if self.lines else 0


def read_runs(folder: pathlib.Path) -> list[Run]:
    """Return all runs in ``folder`` and below, sorted by path. Name those that cannot be read on stderr."""
    runs = []
    for path in sorted(file.parent for file in folder.rglob(CONFIG_FILE)):
        try:
            runs.append(_read_run(path))
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
    return runs


def _read_run(path: pathlib.Path) -> Run:
    if is_release(path):
        raise UserError(f"{path} is a release, not a run")
    if read_imported(path):
        raise UserError(f"{path} began with imported weights, so its config alone does not describe it")
    config, summary = load_config(path), read_summary(path)
    lines = read_metrics(path, eval_split_name(config))
    return Run(path, config, lines, summary, read_confusion(path), read_failure(path))
