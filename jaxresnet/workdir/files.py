"""Read and write the small files of a run directory.

``classes.json`` lists the class names.
``summary.json`` and ``confusion.csv`` hold the results of a finished run. ``failure.txt`` says why a run diverged.
``imported.json`` says where its first weights came from if they were not drawn at random.
"""

import csv
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxresnet.data.loading import usual_class_names
from jaxresnet.system.atomic_files import write_whole
from jaxresnet.system.errors import UserError
from jaxresnet.system.terminal import format_seconds
from jaxresnet.workdir.names import CLASSES_FILE, CONFUSION_FILE, FAILURE_FILE, IMPORTED_FILE, SUMMARY_FILE

# Fields of a summary that its readers need, by dotted name.
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


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Return the summary of the run in ``workdir``, or None if it has not finished.

    Raises:
        UserError: the file is damaged, or was written by a version with fewer fields.
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
        raise UserError(f"{path} cannot be read (invalid {', '.join(wrong)}); {advice}")
    return summary


def _field(fields: Any, name: str) -> Any:
    for part in name.split("."):
        fields = fields.get(part) if isinstance(fields, dict) else None
    return fields


def _is_measure(value: Any) -> bool:
    """Return True if this can be a number of epochs, devices or seconds, a percentage, or images per second."""
    return type(value) in (int, float) and 0 <= value < 1e15


def write_summary(summary: dict[str, Any], workdir: pathlib.Path) -> None:
    """Write ``summary.json`` atomically. Delete ``failure.txt``, because the run has finished."""
    (workdir / FAILURE_FILE).unlink(missing_ok=True)
    write_whole(workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")


def write_confusion(matrix: list[list[int]], names: Sequence[str], workdir: pathlib.Path) -> None:
    """Write ``confusion.csv`` atomically: image counts by true class (row) and predicted class (column).

    Args:
        matrix: confusion matrix of the evaluation after the last epoch.
        names: class names.
        workdir: run directory.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix, strict=True))
    write_whole(workdir / CONFUSION_FILE, text.getvalue())


def read_confusion(workdir: pathlib.Path) -> tuple[list[str], list[list[int]]] | None:
    """Return class names and matrix of ``confusion.csv``, or None if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = workdir / CONFUSION_FILE
    if not path.exists():
        return None
    try:
        (_, *names), *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
        matrix = [[int(count) for count in row[1:]] for row in rows]
        if len(matrix) != len(names) or any(len(row) != len(names) for row in matrix):
            raise ValueError("the matrix is not square")
        if not names or not all(0 <= count < 2**31 for row in matrix for count in row):
            raise ValueError("no classes, or a count out of range")
        return names, matrix
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away") from error


def write_class_names(names: Sequence[str], workdir: pathlib.Path) -> None:
    """Write ``classes.json`` atomically."""
    write_whole(workdir / CLASSES_FILE, json.dumps({"class_names": [*names]}, ensure_ascii=False, indent=1) + "\n")


def read_class_names(workdir: pathlib.Path, config: ConfigDict) -> tuple[str, ...]:
    """Return the class names of a run, one per logit. Older runs, and imported ones, have recorded none.

    Raises:
        UserError: the file is damaged, or does not fit the config.
    """
    count = config.model.num_classes
    path, advice = workdir / CLASSES_FILE, "restore it from a copy"
    fields = _read_json(path, advice)
    if fields is None:
        return usual_class_names(config.dataset.name, count)
    names = fields.get("class_names")
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} cannot be read (expected {count} class names); {advice}")
    return tuple(names)


def check_class_names(workdir: pathlib.Path, config: ConfigDict, names: Sequence[str]) -> None:
    """Check that data have the classes of the run in ``workdir``, as far as both have names.

    Raises:
        UserError: the names differ.
    """
    ours = read_class_names(workdir, config)
    has_names = [not all(name.isdecimal() for name in each) for each in (ours, names)]
    if (workdir / CLASSES_FILE).exists() and all(has_names) and tuple(names) != ours:
        theirs, expected = (", ".join(each[:4]) for each in (names, ours))
        raise UserError(
            f"the classes of the data ({theirs}, ...) are not those of {workdir} ({expected}, ...); give the "
            "--data_dir of the run's data"
        )


def write_failure(reason: str, workdir: pathlib.Path) -> None:
    """Write ``failure.txt`` atomically."""
    write_whole(workdir / FAILURE_FILE, f"{reason}\n")


def read_failure(workdir: pathlib.Path) -> str | None:
    """Return why the run diverged, or None if there is no ``failure.txt``."""
    path = workdir / FAILURE_FILE
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None


def write_imported(origin: dict[str, Any], workdir: pathlib.Path) -> None:
    """Write ``imported.json`` atomically.

    Args:
        origin: ``file``, the name of the weights file, and its ``sha256``. ``epochs`` trained and ``accuracy`` (%), as
            the file claims, or None if it does not. ``num_batches_tracked``: PyTorch's counters by key.
        workdir: run directory.
    """
    write_whole(workdir / IMPORTED_FILE, json.dumps(origin, indent=2) + "\n")


def read_imported(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Return where the first weights came from (see ``write_imported``), or None if they were drawn at random.

    Raises:
        UserError: the file is damaged.
    """
    path, advice = workdir / IMPORTED_FILE, "import the weights again"
    origin = _read_json(path, advice)
    counters = {} if origin is None else origin.get("num_batches_tracked")
    if not isinstance(counters, dict) or not all(type(n) is int and 0 <= n < 2**62 for n in counters.values()):
        raise UserError(f"{path} cannot be read (num_batches_tracked: expected whole numbers of at least 0); {advice}")
    return origin


def _read_json(path: pathlib.Path, advice: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("expected a JSON object")
        return fields
    except (OSError, ValueError, RecursionError) as error:  # deeply nested brackets raise RecursionError
        raise UserError(f"{path} cannot be read ({error}); {advice}") from error


def format_epoch(line: dict[str, Any], epochs: int, split: str) -> str:
    """Return what a run prints after an epoch, from its line of ``metrics.jsonl``."""
    parts = [
        f"epoch {line['epoch']}/{epochs}: loss {line['train_loss']:.4f}",
        f"accuracy {line['train_accuracy']:.2f}%",
    ]
    if f"{split}_loss" in line:
        parts += [f"{split} loss {line[f'{split}_loss']:.4f}", f"{split} accuracy {line[f'{split}_accuracy']:.2f}%"]
    return ", ".join(parts)


def format_summary(summary: dict[str, Any]) -> str:
    """Return the lines that a run prints at its end."""
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
