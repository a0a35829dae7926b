"""The small files of a run.

``summary.json`` and ``confusion.csv``: what it came to, once finished; ``failure.txt``: why it diverged;
``imported.json``: whose weights it began with, where they were not drawn at random.
"""

import csv
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxresnet.errors import UserError
from jaxresnet.files import write_whole
from jaxresnet.metrics import format_seconds

SUMMARY_FILE = "summary.json"
CONFUSION_FILE = "confusion.csv"
FAILURE_FILE = "failure.txt"
IMPORTED_FILE = "imported.json"


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of the run in ``workdir``, or None where it has not finished.

    Raises:
        UserError: the file is damaged.
    """
    return _read_json(workdir / SUMMARY_FILE, "move it away to have it written again")


def write_summary(summary: dict[str, Any], workdir: pathlib.Path) -> None:
    """Writes ``summary.json``, whole or not at all. A run that has finished has not failed."""
    (workdir / FAILURE_FILE).unlink(missing_ok=True)
    write_whole(workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")


def write_confusion(matrix: list[list[int]], names: Sequence[str], workdir: pathlib.Path) -> None:
    """Writes ``confusion.csv``, whole or not at all: how many images of a class (row) were taken for each (column).

    Args:
        matrix: of the evaluation after the last epoch.
        names: of the classes.
        workdir: of the run.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix, strict=True))
    write_whole(workdir / CONFUSION_FILE, text.getvalue())


def read_confusion(workdir: pathlib.Path) -> tuple[list[str], list[list[int]]] | None:
    """Class names and matrix of ``confusion.csv``, or None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    path = workdir / CONFUSION_FILE
    if not path.exists():
        return None
    try:
        (_, *names), *rows = csv.reader(path.read_text().splitlines())
        matrix = [[int(count) for count in row[1:]] for row in rows]
        if not len(names) == len(matrix) == len(matrix[0]):
            raise ValueError("it is not square")
        return names, matrix
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away") from error


def write_failure(reason: str, workdir: pathlib.Path) -> None:
    """Writes ``failure.txt``, whole or not at all."""
    write_whole(workdir / FAILURE_FILE, f"{reason}\n")


def read_failure(workdir: pathlib.Path) -> str | None:
    """Why the run diverged, or None."""
    path = workdir / FAILURE_FILE
    return path.read_text().strip() if path.exists() else None


def write_imported(origin: dict[str, Any], workdir: pathlib.Path) -> None:
    """Writes ``imported.json``, whole or not at all.

    Args:
        origin: ``file`` and its ``sha256``; how many ``epochs`` it was trained for, and the ``accuracy`` (%) it claims,
            each None where it does not say; ``num_batches_tracked``, PyTorch's counters by their keys.
        workdir: of the run.
    """
    write_whole(workdir / IMPORTED_FILE, json.dumps(origin, indent=2) + "\n")


def read_imported(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Where the weights that the run began with came from (see ``write_imported``); None: drawn at random.

    Raises:
        UserError: the file is damaged.
    """
    path, advice = workdir / IMPORTED_FILE, "import the weights again"
    origin = _read_json(path, advice)
    if origin is not None and not (isinstance(origin, dict) and isinstance(origin.get("num_batches_tracked"), dict)):
        raise UserError(f"{path} cannot be read (it holds something else); {advice}")
    return origin


def _read_json(path: pathlib.Path, advice: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}") from error


def format_summary(summary: dict[str, Any]) -> str:
    """The lines that a run ends with."""
    split, best, last = summary["evaluated_on"], summary["best"], summary["last"]
    lines = [
        f"last epoch ({last['epoch']}): {last['accuracy']:.2f}% {split} accuracy",
        f"best epoch ({best['epoch']}): {best['accuracy']:.2f}% {split} accuracy, "
        f"chosen on the {best['selected_on']} set",
    ]
    if "test" in summary:
        lines.append(f"test accuracy of epoch {best['epoch']}, scored once: {summary['test']['test_accuracy']:.2f}%")
    if summary["paper_accuracy"] is not None:
        lines.append(f"the paper: {summary['paper_accuracy']:.2f}%")
    lines.append(f"{format_seconds(summary['wall_seconds'])}, {summary['images_per_second']:,.0f} images/s in training")
    return "\n".join(lines)
