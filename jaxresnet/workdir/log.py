"""Metrics log of a run: ``metrics.jsonl``, TensorBoard files and, on request, Weights & Biases."""

import contextlib
import json
import os
import pathlib
import secrets
import time
from typing import Any

from ml_collections import ConfigDict

from jaxresnet.system.errors import UserError, one_line
from jaxresnet.system.files import to_json, write_whole
from jaxresnet.workdir.folder import METRICS_FILE, TENSORBOARD_FOLDER

_WANDB_ID_FILE = "wandb-run-id.txt"


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
        tracker: Any = None,
    ):
        """Open the files of a run that resumes. Drop later lines, because they will be written again.

        The run resumes after ``step`` steps and ``epochs`` whole epochs, evaluation included. ``last`` is the line of
        the last evaluated epoch. It is put back if it is missing. ``tracker``, as from ``open_wandb``, receives every
        line too.
        """
        path = workdir / METRICS_FILE
        kept = [
            line
            for line in read_metrics(workdir)
            if line["step"] <= step and (line["epoch"] <= epochs or line["epoch"] % 1)
        ]
        if last is not None and not any(is_epoch_line(line) and line["epoch"] == last["epoch"] for line in kept):
            kept = sorted([*kept, last], key=lambda line: line["step"])
        write_whole(path, "".join(f"{to_json(line)}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard, self._tracker = _TensorBoard(workdir / TENSORBOARD_FOLDER, step), tracker

    def write(self, line: dict[str, float | int]) -> None:
        """Write one line and flush it."""
        self._file.write(f"{to_json(line)}\n")
        self._file.flush()
        self._tensorboard.write(line)
        if self._tracker:
            self._tracker.log(line, step=line["step"])

    def close(self) -> None:
        """Close the files."""
        with contextlib.ExitStack() as stack:  # each is closed even if another fails, as on a full disk
            stack.callback(self._file.close)
            stack.callback(self._tensorboard.close)
            if self._tracker:
                stack.callback(self._tracker.finish)  # It waits until everything was sent.


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


def open_wandb(config: ConfigDict, workdir: pathlib.Path) -> Any:
    """Begin a run of Weights & Biases, or go on with the one that a resumed run has begun, with files in ``workdir``.

    wandb reads its own settings from the environment: ``WANDB_API_KEY``, ``WANDB_PROJECT``, ``WANDB_MODE=offline``.

    Raises:
        UserError: wandb is not installed, or knows no account.
    """
    id_file = workdir / _WANDB_ID_FILE
    if not id_file.exists():
        write_whole(id_file, f"{secrets.token_hex(4)}\n")
    try:
        import wandb

        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxresnet"),
            name=f"{config.name}, seed {config.seed}",
            id=id_file.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(workdir),
            config=json.loads(json.dumps(config.to_dict())),
        )
    except Exception as error:  # wandb raises many types
        advice = "pip install 'jaxresnet[wandb]', or see WANDB_MODE=offline"
        raise UserError(f"tracker='wandb' failed ({one_line(error)}); {advice}") from error


def is_epoch_line(line: dict[str, Any]) -> bool:
    """Return True if a line of ``metrics.jsonl`` is the last of an evaluated epoch."""
    return "seconds" in line


def format_epoch(line: dict[str, Any], epochs: int, split: str) -> str:
    """Return what a run prints after an epoch, from its line of ``metrics.jsonl``."""
    text = f"epoch {line['epoch']}/{epochs}: loss {line['train_loss']:.4f}, accuracy {line['train_accuracy']:.2f}%"
    if is_epoch_line(line):
        text += f", {split} loss {line[f'{split}_loss']:.4f}, {split} accuracy {line[f'{split}_accuracy']:.2f}%"
    return text


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, without a last one that a killed run left incomplete.

    Raises:
        UserError: a complete line is damaged.
    """
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); move it away, and the run starts a new one") from error
