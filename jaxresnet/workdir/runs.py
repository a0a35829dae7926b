"""Read finished and unfinished runs from their directories."""

import contextlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxresnet.config import CONFIG_FILE, load_config, restore_config
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.workdir.folder import IMPORTED_FILE, METRICS_FILE, read_confusion, read_failure, read_summary
from jaxresnet.workdir.log import is_epoch_line, read_metrics


class Run(NamedTuple):
    """A run, finished or not."""

    path: pathlib.Path  # run directory
    config: ConfigDict  # config of the run
    lines: list[dict[str, Any]]  # lines of ``metrics.jsonl``
    summary: dict[str, Any] | None  # content of ``summary.json``; None, as ``confusion``, if the run has not finished
    confusion: tuple[list[str], list[list[int]]] | None  # class names, and matrix of the last epoch
    failure: str | None  # reason why the run diverged, or None

    @property
    def epoch_lines(self) -> list[dict[str, Any]]:
        """Last line of each evaluated epoch."""
        return [line for line in self.lines if is_epoch_line(line)]


def read_runs(folder: pathlib.Path) -> list[Run]:
    """Return all runs in ``folder`` and below, sorted by path. Name those that cannot be read on stderr.

    Files of packed runs (``scripts/pack_runs.py``) are read like folders of the same name without ``.jsonl``.
    ``folder`` may also be such a file.
    """
    runs: list[Run] = []
    walk = os.walk(folder, onerror=lambda error: print(f"skipped: {error}", file=sys.stderr))
    inside = (pathlib.Path(parent, name) for parent, _, names in walk for name in names)
    for file in [folder] if folder.is_file() else inside:
        with _skipping(file):
            if file.name == CONFIG_FILE:
                runs.append(_read_folder(file.parent))
            elif file.suffix == ".jsonl" and file.name != METRICS_FILE:
                for line in read_packed(file):
                    path = file.with_suffix("") / line["path"]
                    with _skipping(path):
                        config, summary = restore_config(line["config"]), _finite(line.get("summary"))
                        runs.append(Run(path, config, line["metrics"], summary, None, line.get("failure")))
    return sorted(runs, key=lambda run: run.path)


@contextlib.contextmanager
def _skipping(path: pathlib.Path) -> Iterator[None]:
    """Name what is no run, or a file of another program, so that it does not end the report on all others."""
    try:
        yield
    except Exception as error:  # such a file can hold anything
        reason = error if isinstance(error, UserError) else f"{path} cannot be read ({one_line(error)})"
        print(f"skipped: {reason}", file=sys.stderr)


def _read_folder(path: pathlib.Path) -> Run:
    if (path / IMPORTED_FILE).exists():
        raise UserError(f"{path} did not begin with random weights, so its config alone does not describe it")
    summary, confusion, failure = _finite(read_summary(path)), read_confusion(path), read_failure(path)
    return Run(path, load_config(path), read_metrics(path), summary, confusion, failure)


def _finite(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a summary whose accuracy is a number, as a fit over all runs needs it, or None, or raise an exception."""
    if summary is not None and not math.isfinite(summary["last"]["accuracy"]):
        raise ValueError("its accuracy is not a number")
    return summary


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
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is not a file of packed runs ({error})") from error
