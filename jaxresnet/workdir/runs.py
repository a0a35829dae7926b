"""Read finished and unfinished runs from their directories."""

import json
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxresnet.config import CONFIG_FILE, load_config
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.folder import (
    FAILURE_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    read_confusion,
    read_failure,
    read_imported,
    read_summary,
)
from jaxresnet.workdir.log import is_epoch_line, read_metrics


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
    """Return all runs in ``folder`` and below, sorted by path. Name those that cannot be read on stderr.

    Files of packed runs (``scripts/pack_runs.py``) are read like folders of the same name without ``.jsonl``.
    ``folder`` may also be such a file.
    """
    runs = [*_read_folders(file.parent for file in folder.rglob(CONFIG_FILE))]
    for file in [folder] if folder.is_file() else folder.rglob("*.jsonl"):
        if file.name != METRICS_FILE:
            runs += _unpack(file)
    return sorted(runs, key=lambda run: run.path)


def _read_folders(paths: Iterable[pathlib.Path]) -> Iterator[Run]:
    for path in paths:
        try:
            yield _read_run(path)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)


def read_packed(file: pathlib.Path) -> list[dict[str, Any]]:
    """Return the lines of a file of packed runs.

    Raises:
        UserError: a line is not a run.
    """
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if not all({"path", "config", "metrics"} <= line.keys() for line in lines):
            raise ValueError("expected a path, config and metrics on each line")
        return lines
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a file of packed runs ({error})") from error


def _unpack(file: pathlib.Path) -> Iterator[Run]:
    """Write each run of a file to a temporary folder and read it from there, so that there is one reader."""
    for line in read_packed(file):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            (path / CONFIG_FILE).write_text(json.dumps(line["config"]), encoding="utf-8")
            (path / METRICS_FILE).write_text(
                "".join(f"{json.dumps(each)}\n" for each in line["metrics"]), encoding="utf-8"
            )
            if line.get("summary"):
                (path / SUMMARY_FILE).write_text(json.dumps(line["summary"]), encoding="utf-8")
            if line.get("failure"):
                (path / FAILURE_FILE).write_text(line["failure"], encoding="utf-8")
            for run in _read_folders([path]):
                yield run._replace(path=file.with_suffix("") / line["path"])


def _read_run(path: pathlib.Path) -> Run:
    if read_imported(path):
        raise UserError(f"{path} began with imported weights, so its config alone does not describe it")
    summary, confusion, failure = read_summary(path), read_confusion(path), read_failure(path)
    return Run(path, load_config(path), read_metrics(path), summary, confusion, failure)
