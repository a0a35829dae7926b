"""The folder of a run: names of its files, contents of the small ones, and its lock.

``config.json`` describes the run, ``metrics.jsonl`` is its log, and ``classes.json`` lists the class names.
``split.json`` lists the test images, if they were drawn.
``summary.json`` and ``confusion.csv`` hold the results of a finished run. ``failure.txt`` says why a run diverged.
``imported.json`` records the file or the run that the first weights were imported from.
"""

import contextlib
import csv
import io
import json
import math
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import filelock
from ml_collections import ConfigDict

from jaxresnet.config import CONFIG_FILE, check_same_training, save_config
from jaxresnet.data.cifar import CIFAR10_CLASSES
from jaxresnet.data.loading import Dataset, load_dataset
from jaxresnet.system.errors import Diverged, UserError
from jaxresnet.system.files import remove_leftovers, to_json, write_whole
from jaxresnet.system.terminal import format_seconds

# Every run.
CLASSES_FILE = "classes.json"
SPLIT_FILE = "split.json"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
CHECKPOINTS_FOLDER = "checkpoints"
DAMAGED_FOLDER = "damaged-checkpoints"
LOCK_FILE = ".lock"

# A finished run.
SUMMARY_FILE = "summary.json"
CONFUSION_FILE = "confusion.csv"
CURVES_FILE = "curves.png"

# A diverged run, and a run that began with imported weights.
FAILURE_FILE = "failure.txt"
IMPORTED_FILE = "imported.json"

# A release: a finished run without checkpoints, and small enough to ship.
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"


def check_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Check that ``workdir`` is new, empty or holds this run.

    Raises:
        UserError: it is a file, or holds another run or other files.
        OSError: it cannot be read.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir} is a file; give a folder")
    if odd := re.search(r"\[.*\]|\\|[\ud800-\udfff]", str(workdir.absolute())):
        raise UserError(f"workdir {workdir}: checkpoints in a path with {odd[0]!r} cannot be read again; give another")
    if (workdir / CONFIG_FILE).exists():
        check_same_training(config, workdir)
    elif workdir.is_dir() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        raise UserError(f"workdir {workdir} holds other files and no run; give an empty or a new folder")


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Return True if a checkpoint was saved, damaged or not."""
    return any(path.name.isdecimal() for path in (workdir / CHECKPOINTS_FOLDER).glob("*"))


@contextlib.contextmanager
def opened(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Create and lock the workdir of a run that begins or resumes. If the run diverges, record why.

    Raises:
        UserError: the workdir holds another run, or is in use.
        OSError: the workdir cannot be written.
    """
    with locked(workdir):
        check_workdir(config, workdir)  # Check again: another run may have begun here since.
        remove_leftovers(workdir)
        save_config(config, workdir)
        try:
            yield
        except Diverged as error:
            write_whole(workdir / FAILURE_FILE, f"{error}\n")
            raise


@contextlib.contextmanager
def locked(folder: pathlib.Path, seconds: float = 0) -> Iterator[None]:
    """Create and lock a folder, that of a run or of a sweep. Wait at most ``seconds`` while another process holds it.

    Raises:
        UserError: another process still holds it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The system releases the lock if the process is killed, and a file server does some time after its host has died.
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=seconds)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        # On file systems without locks, the file is the lock: it names its process and host, and outlives a crash.
        holder = " on ".join((folder / LOCK_FILE).read_text(encoding="utf-8").split()[:2])
        who = f"process {holder} (if it has ended, delete {folder / LOCK_FILE})" if holder else "another process"
        raise UserError(f"{folder} is in use by {who}; wait, or give another --workdir") from error
    try:
        yield
    finally:
        lock.release()


def read_json(path: pathlib.Path, advice: str) -> dict[str, Any] | None:
    """Return the fields of a JSON file, or None if there is no such file.

    Raises:
        UserError: the file is damaged. The message ends in ``advice``.
    """
    if not path.exists():
        return None
    try:
        if isinstance(fields := json.loads(path.read_text(encoding="utf-8")), dict):
            return fields
        raise ValueError("expected an object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}") from error


def write_json(path: pathlib.Path, fields: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_whole(path, to_json(fields, indent=2) + "\n")


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Return the summary of the run in ``workdir``, or None if it has not finished.

    Raises:
        UserError: the file is damaged.
    """
    path, advice = workdir / SUMMARY_FILE, "move it away to have it written again"
    summary = read_json(path, advice)
    if summary is not None and not {"best", "last", "device"} <= summary.keys():
        raise UserError(f"{path} lacks fields; {advice}")
    return summary


def read_temperature(workdir: pathlib.Path) -> float:
    """Return the temperature of a release; 1 for a run, and with a note on stderr for a release that has none.

    Raises:
        UserError: it is not a positive number, or ``summary.json`` is damaged.
    """
    release = (read_summary(workdir) or {}).get("release")
    if release is not None and "temperature" not in release:
        print(f"note: {workdir} is a release without a temperature; its confidences are as trained", file=sys.stderr)
    value = (release or {}).get("temperature", {"value": 1.0}).get("value")
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{workdir / SUMMARY_FILE}: the temperature is {value!r}; expected a positive number")
    return float(value)


def write_summary(summary: dict[str, Any], workdir: pathlib.Path) -> None:
    """Write ``summary.json`` atomically. Delete ``failure.txt``, because the run has finished."""
    (workdir / FAILURE_FILE).unlink(missing_ok=True)
    write_json(workdir / SUMMARY_FILE, summary)


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


def write_confusion(matrix: list[list[int]], names: Sequence[str], workdir: pathlib.Path) -> None:
    """Write ``confusion.csv`` atomically: image counts by true class (row) and predicted class (column)."""
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
        return names, [[int(count) for count in row[1:]] for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away") from error


def load_data(config: ConfigDict, workdir: pathlib.Path, data_dir: str | None = None) -> Dataset:
    """Read the data of the run in ``workdir``, with the test images that it has drawn, or of one that will begin there.

    ``data_dir`` is where the data lie now, if not where the config says.

    Raises:
        UserError: as in ``load_dataset``; or the classes are not those of the run, as far as both have names.
    """
    fields, split = config.dataset, read_json(workdir / SPLIT_FILE, "restore it from a copy")
    test = fields.split_seed if split is None else split.get("test")
    if not isinstance(test, int | list):
        raise UserError(f"{workdir / SPLIT_FILE} cannot be read (expected the test images); restore it from a copy")
    place = fields.data_dir if data_dir is None else data_dir
    data = load_dataset(fields.name, place, config.model.num_classes, fields.image_size, test)
    names, expected = data.class_names, read_class_names(workdir, config)
    are_named = all(any(not name.isdecimal() for name in group) for group in (expected, names))
    if (workdir / CLASSES_FILE).exists() and are_named and names != expected:
        raise UserError(
            f"the classes of the data ({', '.join(names[:4])}, ...) are not those of {workdir} "
            f"({', '.join(expected[:4])}, ...); give the data_dir of the run's data"
        )
    return data


def write_class_names(names: Sequence[str], workdir: pathlib.Path) -> None:
    """Write ``classes.json`` atomically."""
    write_json(workdir / CLASSES_FILE, {"class_names": [*names]})


def read_class_names(workdir: pathlib.Path, config: ConfigDict) -> tuple[str, ...]:
    """Return the class names of a run, one per logit. Older runs, and imported ones, have recorded none.

    Raises:
        UserError: the file is damaged, or does not fit the config.
    """
    count, advice = config.model.num_classes, "restore it from a copy"
    fields = read_json(workdir / CLASSES_FILE, advice)
    if fields is None:
        is_cifar10 = config.dataset.name == "cifar10" and count == len(CIFAR10_CLASSES)
        return CIFAR10_CLASSES if is_cifar10 else tuple(map(str, range(count)))
    names = fields.get("class_names")
    if not isinstance(names, list) or len(names) != count:
        raise UserError(f"{workdir / CLASSES_FILE} cannot be read (expected {count} class names); {advice}")
    return tuple(map(str, names))


def data_name(workdir: pathlib.Path, config: ConfigDict) -> str:
    """Return the name of a run's data: that of the data set, or of a user's own under the name of CIFAR-10."""
    if config.dataset.name == "cifar10" and read_class_names(workdir, config) != CIFAR10_CLASSES:
        return pathlib.Path(config.dataset.data_dir or "other data").stem
    return str(config.dataset.name)


def read_failure(workdir: pathlib.Path) -> str | None:
    """Return why the run diverged, or None if there is no ``failure.txt``."""
    path = workdir / FAILURE_FILE
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None
