"""Means over many batches, and where they are written: terminal, metrics.jsonl, TensorBoard."""

import dataclasses
import json
import math
import pathlib
import sys
import time
from typing import Any

import numpy as np
from jaxtyping import Float
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from jaxresnet.errors import UserError
from jaxresnet.files import write_whole

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 30.0


@dataclasses.dataclass
class Sums:
    """Sums over images, from which means are taken once, at the end.

    Attributes:
        loss: cross entropy.
        correct: images whose largest logit is their label's.
        count: images.
        seconds: spent on them.
    """

    loss: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0

    def add(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Adds metrics of a series of steps, in float64 and in order: a resumed sum is the uninterrupted one."""
        self.seconds += seconds
        for loss, correct, count in zip(metrics["loss"], metrics["correct"], metrics["count"], strict=True):
            self.loss += float(loss)
            self.correct += int(correct)
            self.count += int(count)

    def means(self, prefix: str) -> dict[str, float]:
        """``{prefix}_loss`` and ``{prefix}_accuracy``, the latter in %."""
        return {
            f"{prefix}_loss": self.loss / self.count,
            f"{prefix}_accuracy": 100 * self.correct / self.count,
        }


class MetricsWriter:
    """Appends lines to ``metrics.jsonl`` and scalars to TensorBoard files.

    Every line has ``epoch`` (passed, with fractions), ``step`` (taken so far), ``learning_rate``, ``train_loss`` and
    ``train_accuracy`` (%; means over the epoch so far) and ``images_per_second``. The last line of an epoch that was
    evaluated also has ``{split}_loss`` and ``{split}_accuracy`` on that split, and the ``seconds`` of training and
    evaluation that the run took so far.
    """

    def __init__(self, workdir: pathlib.Path, step: int, epochs: int, last: dict[str, Any] | None = None):
        """Opens the files of a run that resumes after ``step`` steps and ``epochs`` whole epochs, evaluation included,
        and drops what was written after that point: it will be written again. ``last``, the last epoch's line, is put
        back where it is missing."""
        path = workdir / METRICS_FILE
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            print(f"note: the last line of {path} was cut short, and is dropped", file=sys.stderr)
        kept = [
            line
            for line in read_metrics(workdir)
            if line["step"] <= step and (line["epoch"] <= epochs or line["epoch"] % 1)
        ]
        if last is not None and not any(is_epoch_line(line) and line["epoch"] == last["epoch"] for line in kept):
            kept = sorted([*kept, last], key=lambda line: line["step"])
        write_whole(path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = path.open("a")
        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        # tensorboardX's SummaryWriter writes from a thread, where nobody can answer that the disk is full.
        self._tensorboard = EventsWriter(str(folder / "events"))
        session = SessionLog(status=SessionLog.START)
        self._tensorboard.write_event(Event(wall_time=time.time(), step=step + 1, session_log=session))

    def write(self, line: dict[str, float | int]) -> None:
        """Writes one line, at once."""
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()
        values = [Summary.Value(tag=name, simple_value=value) for name, value in line.items() if name != "step"]
        event = Event(wall_time=time.time(), step=line["step"], summary=Summary(value=values))
        self._tensorboard.write_event(event)
        self._tensorboard.flush()

    def close(self) -> None:
        try:
            self._file.close()  # which fails where the disk is full
        finally:
            self._tensorboard.close()


class NoWriter:
    """In place of a ``MetricsWriter`` in all processes of a run but the first."""

    def write(self, line: dict[str, float | int]) -> None:
        pass

    def close(self) -> None:
        pass


def is_epoch_line(line: dict[str, Any]) -> bool:
    """Whether a line of ``metrics.jsonl`` is an epoch's last, which has been evaluated."""
    return "seconds" in line


def read_metrics(workdir: pathlib.Path, split: str | None = None) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, without a last one that a killed run left unfinished.

    Args:
        workdir: of the run.
        split: what its epochs were evaluated on, where more is wanted than ``epoch`` and ``step``.

    Raises:
        UserError: another line is damaged.
    """
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    try:
        lines = path.read_text().splitlines(keepends=True)
        return [_parse_line(line, split) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, RecursionError) as error:  # the last: of brackets within brackets
        raise UserError(f"{path} is damaged ({error}); move it away, and the run goes on with a new one") from error


def _parse_line(text: str, split: str | None) -> dict[str, Any]:
    line = json.loads(text)
    if not isinstance(line, dict) or not all(type(value) in (int, float) for value in line.values()):
        raise ValueError("a line holds something else than numbers")
    needed = ["epoch", "step"]
    if split is not None:
        needed += ["learning_rate", "train_loss", "train_accuracy"]
        needed += [f"{split}_loss", f"{split}_accuracy"] if is_epoch_line(line) else []
    if missing := [name for name in needed if name not in line]:
        raise ValueError(f"a line has no {missing[0]}")
    if type(line["step"]) is not int or not all(0 <= line[name] < 2**63 for name in ("epoch", "step")):
        raise ValueError("a line is of no step or epoch that can be")
    return line


class ProgressDisplay:
    """A bar on a terminal, and a line now and then where the output is none."""

    def __init__(self, num_epochs: int, work: Float[np.ndarray, " steps"], step: int):
        """Begin after a step. ``work`` is what is done after each number of steps, from none to all, in any unit."""
        self._num_epochs, self._work, self._total_steps = num_epochs, work, len(work) - 1
        self._bar = None
        if sys.stdout.isatty():
            self._bar = tqdm(
                total=self._total_steps,
                initial=step,
                file=sys.stdout,
                bar_format="{percentage:3.0f}%|{bar:20}| {desc}",
                dynamic_ncols=True,
            )
        self._last_line = time.monotonic()
        # The clock starts after the first update, which includes compilation.
        self._start: tuple[float, int] | None = None

    def update(self, epoch: int, step: int, sums: Sums) -> None:
        """Shows where training stands; ``epoch`` counts from 1, ``sums`` are the running epoch's."""
        now = time.monotonic()
        self._start = self._start or (now, step)
        means = sums.means("train")
        text = (
            f"epoch {epoch}/{self._num_epochs}  step {step:,}/{self._total_steps:,}  "
            f"loss {means['train_loss']:.4f}  accuracy {means['train_accuracy']:.2f}%  "
            f"{sums.count / sums.seconds:,.0f} images/s  {self._time_left(now, step)}"
        )
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_description_str(text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(text, flush=True)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _time_left(self, now: float, step: int) -> str:
        start, start_step = self._start or (now, step)
        if step == start_step:
            return "time left: measuring"
        pace = (self._work[step] - self._work[start_step]) / (now - start)
        return f"{format_seconds((self._work[-1] - self._work[step]) / pace)} left"


def image_bar(total: int) -> tqdm:
    """A bar on stderr, with images a second and the time left: on a terminal, or now and then where there is none."""
    seconds = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    return tqdm(total=total, unit=" images", mininterval=seconds, delay=seconds, leave=False, dynamic_ncols=True)


def format_seconds(seconds: float) -> str:
    """Such as 48s, 12m05s or 3h07m."""
    seconds = math.ceil(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
