"""Metrics log of a run: ``metrics.jsonl`` and TensorBoard files."""

import contextlib
import json
import pathlib
import sys
import time
from typing import Any

from jaxresnet.system.atomic_files import write_whole
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.names import METRICS_FILE, TENSORBOARD_FOLDER
from jaxresnet.workdir.tracking import WandbTracker


class MetricsWriter:
    """Writer of ``metrics.jsonl`` and TensorBoard files.

    Every line has ``epoch`` (epochs trained, with fractions), ``step`` (steps taken), ``learning_rate``,
    ``train_loss`` and ``train_accuracy`` (%; means over the epoch so far) and ``images_per_second``. The last line of
    an evaluated epoch also has ``{split}_loss`` and ``{split}_accuracy`` (%) of the evaluation split, and ``seconds``,
    the time of training and evaluation so far.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        step: int,
        epochs: int,
        last: dict[str, Any] | None = None,
        tracker: WandbTracker | None = None,
    ):
        """Open the files of a run that resumes. Drop later lines, because they will be written again.

        The run resumes after ``step`` steps and ``epochs`` whole epochs, evaluation included. ``last`` is the line of
        the last evaluated epoch. It is put back if it is missing. ``tracker`` receives every line too.
        """
        path = workdir / METRICS_FILE
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            print(f"note: the last line of {path} was cut short and is dropped", file=sys.stderr)
        kept = [
            line
            for line in read_metrics(workdir)
            if line["step"] <= step and (line["epoch"] <= epochs or line["epoch"] % 1)
        ]
        if last is not None and not any(is_epoch_line(line) and line["epoch"] == last["epoch"] for line in kept):
            kept = sorted([*kept, last], key=lambda line: line["step"])
        write_whole(path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard = _TensorBoard(workdir / TENSORBOARD_FOLDER, step)
        self._tracker = tracker

    def write(self, line: dict[str, float | int]) -> None:
        """Write one line and flush it."""
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()
        self._tensorboard.write(line)
        if self._tracker:
            self._tracker.write(line)

    def close(self) -> None:
        """Close the files."""
        with contextlib.ExitStack() as stack:  # each is closed even if another fails, as on a full disk
            stack.callback(self._file.close)
            stack.callback(self._tensorboard.close)
            if self._tracker:
                stack.callback(self._tracker.close)


class _TensorBoard:
    """Writer of TensorBoard's files in ``folder``, of a session that begins after ``step`` steps."""

    def __init__(self, folder: pathlib.Path, step: int):
        # Imported here because it imports PyTorch if that is installed.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        folder.mkdir(exist_ok=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # tensorboardX's SummaryWriter writes from a thread, where a full disk could not be reported.
        self._writer = EventsWriter(str(folder / "events"))
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(self._event(wall_time=time.time(), step=step + 1, session_log=session))

    def write(self, line: dict[str, float | int]) -> None:
        """Write the values of a line and flush them."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in line.items() if name != "step"]
        summary = self._summary(value=values)
        self._writer.write_event(self._event(wall_time=time.time(), step=line["step"], summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class NoWriter:
    """Stand-in for ``MetricsWriter`` in all processes but the first."""

    def write(self, line: dict[str, float | int]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def is_epoch_line(line: dict[str, Any]) -> bool:
    """Return True if a line of ``metrics.jsonl`` is the last of an evaluated epoch."""
    return "seconds" in line


def read_metrics(workdir: pathlib.Path, split: str | None = None) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, without a last one that a killed run left incomplete.

    Args:
        workdir: run directory.
        split: evaluation split, to require all metrics in the lines instead of ``epoch`` and ``step`` alone.

    Raises:
        UserError: a complete line is damaged.
    """
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [_parse_line(line, split) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, RecursionError) as error:  # deeply nested brackets raise RecursionError
        raise UserError(f"{path} is damaged ({error}); move it away, and the run starts a new one") from error


def _parse_line(text: str, split: str | None) -> dict[str, Any]:
    line = json.loads(text)
    if not isinstance(line, dict) or not all(type(value) in (int, float) for value in line.values()):
        raise ValueError("expected a JSON object of numbers on each line")
    needed = ["epoch", "step"]
    if split is not None:
        needed += ["learning_rate", "train_loss", "train_accuracy"]
        needed += [f"{split}_loss", f"{split}_accuracy"] if is_epoch_line(line) else []
    if missing := [name for name in needed if name not in line]:
        raise ValueError(f"a line has no {missing[0]}")
    if type(line["step"]) is not int or not all(0 <= line[name] < 2**63 for name in ("epoch", "step")):
        raise ValueError("a line has an invalid step or epoch")
    return line
