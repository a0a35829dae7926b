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
# What is read of a summary, by its place in it.
_TEXT = ("best.selected_on", "evaluated_on", "device", "platform", "versions.jax")
_NUMBERS = (
    "best.epoch",
    "best.accuracy",
    "last.epoch",
    "last.accuracy",
    "wall_seconds",
    "train_seconds",
    "images_per_second",
    "device_count",
)

FAILURE_FILE = "failure.txt"
IMPORTED_FILE = "imported.json"


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of the run in ``workdir``, or None where it has not finished.

    Raises:
        UserError: the file is damaged, or of another version that wrote less.
    """
    path, advice = workdir / SUMMARY_FILE, "move it away to have it written again"
    summary = _read_json(path, advice)
    if summary is None:
        return None
    if missing := {name.partition(".")[0] for name in (*_TEXT, *_NUMBERS)} - summary.keys():
        raise UserError(f"{workdir} has a summary without {', '.join(sorted(missing))}; {advice}")
    numbers = [*_NUMBERS]
    numbers += ["paper_accuracy"] if summary.get("paper_accuracy") is not None else []
    numbers += ["test.test_accuracy"] if "test" in summary or summary["evaluated_on"] == "validation" else []
    text = [*_TEXT] + (["data_fingerprint"] if "data_fingerprint" in summary else [])
    wrong = [name for name in text if not isinstance(_field(summary, name), str)]
    wrong += [name for name in numbers if not _is_measure(_field(summary, name))]
    if wrong:
        raise UserError(f"{path} cannot be read (its {', '.join(wrong)} cannot be); {advice}")
    return summary


def _field(fields: Any, name: str) -> Any:
    for part in name.split("."):
        fields = fields.get(part) if isinstance(fields, dict) else None
    return fields


def _is_measure(value: Any) -> bool:
    """Whether this may be a number of epochs, %, seconds, images a second or devices."""
    return type(value) in (int, float) and 0 <= value < 1e15


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
        if len(matrix) != len(names) or any(len(row) != len(names) for row in matrix):
            raise ValueError("it is not square")
        if not names or not all(0 <= count < 2**31 for row in matrix for count in row):
            raise ValueError("it holds no numbers of images")
        return names, matrix
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away") from error


def write_failure(reason: str, workdir: pathlib.Path) -> None:
    """Writes ``failure.txt``, whole or not at all."""
    write_whole(workdir / FAILURE_FILE, f"{reason}\n")


def read_failure(workdir: pathlib.Path) -> str | None:
    """Why the run diverged, or None."""
    path = workdir / FAILURE_FILE
    return path.read_text(errors="replace").strip() if path.exists() else None


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
    counters = {} if origin is None else origin.get("num_batches_tracked")
    if not isinstance(counters, dict) or not all(type(n) is int and 0 <= n < 2**62 for n in counters.values()):
        raise UserError(f"{path} cannot be read (it holds something else); {advice}")
    return origin


def _read_json(path: pathlib.Path, advice: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict):
            raise ValueError("it holds something else")
        return fields
    except (OSError, ValueError, RecursionError) as error:  # the last: of brackets within brackets
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
    if summary.get("paper_accuracy") is not None:
        lines.append(f"the paper: {summary['paper_accuracy']:.2f}%")
    lines.append(f"{format_seconds(summary['wall_seconds'])}, {summary['images_per_second']:,.0f} images/s in training")
    return "\n".join(lines)
