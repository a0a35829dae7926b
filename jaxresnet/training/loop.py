"""The training loop: epochs, steps, evaluation, checkpoints."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxresnet.config import check_config, eval_split_name
from jaxresnet.core.costs import flop_until
from jaxresnet.core.evaluation import Sums, evaluate
from jaxresnet.core.model import count_parameters
from jaxresnet.core.programs import dispatch, epoch_order, jit_steps, put_on_devices, steps_per_dispatch, train_batches
from jaxresnet.core.state import create_transform
from jaxresnet.core.steps import Metrics, create_loss
from jaxresnet.data.loading import load_dataset
from jaxresnet.extensions import use_all
from jaxresnet.system import devices, processes, signals
from jaxresnet.system.errors import Diverged, Interrupted, UserError, user_path
from jaxresnet.system.terminal import ProgressDisplay, format_seconds
from jaxresnet.training.results import summarise
from jaxresnet.training.resume import restore
from jaxresnet.training.task import Task, create_task
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.folder import (
    check_workdir,
    explaining_full_disks,
    format_summary,
    opened,
    read_summary,
    write_class_names,
    write_confusion,
    write_summary,
)
from jaxresnet.workdir.log import MetricsWriter, NoWriter, WandbTracker, check_tracker, format_epoch


def train_and_evaluate(config: ConfigDict, workdir: str, status: Callable[[], str] | None = None) -> dict[str, Any]:
    """Train and evaluate in ``workdir``, or resume the run that is already there.

    Args:
        config: config with the fields of ``configs/default.py``.
        workdir: run directory: ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and, at the end,
            ``summary.json`` and ``confusion.csv``; ``failure.txt`` if the run diverged.
        status: function that returns a text to add to each epoch's line.

    Returns:
        The summary: ``best`` and ``last`` epoch, parameters, timings, device and versions. ``best`` names the split it
        was ``selected_on``. If it was selected on held-out training images, ``test`` is its only score on the test set.
        Timings cover training steps, compilation included, and evaluation, over all sessions.

    Raises:
        UserError: config, workdir or data set that cannot work.
        Diverged: the loss or a parameter became NaN or infinite.
        Interrupted: SIGINT, SIGTERM or SIGHUP came, and the run was saved.
    """
    folder = user_path(workdir)
    check_config(config)
    config = use_all(config)
    check_tracker(config)
    check_workdir(config, folder)
    if summary := read_summary(folder):
        print(f"{folder} already holds this run, finished.\n{format_summary(summary)}")
        return summary

    print(f"reading {config.dataset.data_dir or config.dataset.name} ...", flush=True)
    dataset = processes.first_before_others(
        lambda: load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes)
    )
    task = create_task(config, dataset)  # Before the workdir is written, because it can fail.
    with (
        opened(folder, config) if processes.is_first() else contextlib.nullcontext(),
        explaining_full_disks(folder),
        Checkpointer(folder, config.checkpoint.keep) as checkpointer,
        processes.ending_others_too(),
        explaining_full_disks(folder),  # again, because the line before may end the process
    ):
        trainer = _Trainer(task, folder, lambda: None, checkpointer, status)
        summary = trainer.run()
    print(format_summary(summary))
    return summary


class _Save(NamedTuple):
    """Steps, whole epochs and monotonic time at the last save, or at the start of the session."""

    step: int
    epoch: int
    time: float


class _Dispatch(NamedTuple):
    """A dispatch whose metrics have not been read.

    Attributes:
        metrics: metrics on the devices, which may still compute them.
        before: steps before the dispatch.
        after: steps after it.
        start: monotonic time at which it began.
    """

    metrics: Metrics
    before: int
    after: int
    start: float


class _Trainer:
    """Training of one run. It changes ``state`` and ``progress``, from which checkpoints are made.

    Within an epoch, devices get the next dispatch before the metrics of the last one are read, so that they do not wait
    for the host. ``progress`` then lags behind ``state``, until ``_record_all`` is called. Several processes agree
    after each dispatch whether to stop, for which they do wait.
    """

    def __init__(
        self,
        task: Task,
        workdir: pathlib.Path,
        check_place: Callable[[], None],
        checkpointer: Checkpointer,
        status: Callable[[], str] | None,
    ):
        """Resume the run in ``workdir``, or begin it.

        Args:
            task: fixed inputs of the run.
            workdir: run directory, locked by the caller.
            check_place: function that raises UserError if ``workdir`` was moved or deleted.
            checkpointer: checkpoints of ``workdir``.
            status: function that returns a text to add to each epoch's line.
        """
        self.task, self.config, self.workdir, self.mesh = task, task.config, workdir, task.mesh
        self.check_place, self.checkpointer, self.status = check_place, checkpointer, status
        self.stop_signal: list[signal.Signals] = []  # filled by a signal while the run can be saved
        self.steps_per_epoch, self.hyperparams_fn = task.steps_per_epoch, task.hyperparams_fn
        self.eval_name = eval_split_name(self.config)
        self.eval_steps = jit_steps(create_transform(self.config), self.mesh)

        self.state, self.progress = restore(task, checkpointer, workdir)
        self.train_data = put_on_devices(task.train_split.images, task.train_split.labels, self.mesh)
        self.eval_data = put_on_devices(task.eval_split.images, task.eval_split.labels, self.mesh)
        step, epoch = int(self.state.step), self.progress.epoch
        self.last_save = _Save(step, epoch, time.monotonic())
        self.unread: _Dispatch | None = None
        self.read_time = time.monotonic()  # Time of the last reading of metrics.
        print(
            f"{count_parameters(self.state.params):,} parameters, {len(task.train_split):,} training images, "
            f"{self.steps_per_epoch} steps per epoch, {devices.device_name()}; "
            + ("compiling the first step ..." if step == 0 else f"resuming after step {step:,}"),
            flush=True,
        )
        self.writer: MetricsWriter | NoWriter = NoWriter()
        if processes.is_first():
            write_class_names(task.class_names, workdir)
            tracker = WandbTracker(self.config, workdir) if self.config.tracker else None
            self.writer = MetricsWriter(workdir, step, epoch, self.progress.last, tracker)
        # Progress is counted in FLOP, because a step on smaller images does less work.
        steps = np.arange(self.steps_per_epoch * self.config.num_epochs + 1)
        work = flop_until(self.config, task.train_split.images.shape[1:], steps / self.steps_per_epoch)
        self.display = ProgressDisplay(self.config.num_epochs, work, step)

    def run(self) -> dict[str, Any]:
        """Train the remaining epochs and return the summary."""
        with (
            contextlib.closing(self.writer),
            contextlib.closing(self.display),
            signals.stop_signal() as self.stop_signal,
        ):
            while self.progress.epoch < self.config.num_epochs:
                self._train_epoch()
                self._finish_epoch()
            self._wait_for_save()
        return self._summarise()

    def _train_epoch(self) -> None:
        """Train the remaining steps of the current epoch."""
        epoch, batch_size = self.progress.epoch, self.config.batch_size
        train = jit_steps(create_transform(self.config, epoch), self.mesh, create_loss(self.config)).train
        order = epoch_order(self.config.seed, epoch, len(self.task.train_split))
        step = int(self.state.step)
        at_once = steps_per_dispatch(self.config.steps_per_dispatch)
        for indices in train_batches(order, batch_size, step - epoch * self.steps_per_epoch, at_once):
            start = time.monotonic()
            hyperparams = self.hyperparams_fn(np.arange(step, step + len(indices)))
            hyperparams = jax.tree.map(np.float32, hyperparams)
            self.state, metrics = dispatch(train, self.state, self.train_data, indices, hyperparams)
            last, self.unread = self.unread, _Dispatch(metrics, step, step + len(indices), start)
            self._record(last)
            step += len(indices)
            if step < (epoch + 1) * self.steps_per_epoch and self._save_is_due(step):
                self._save()
            self._stop_if_asked()
        self._record_all()

    def _record_all(self) -> None:
        """Wait for the devices and record their last dispatch, so that ``progress`` is that of ``state``."""
        last, self.unread = self.unread, None
        self._record(last)

    def _record(self, dispatched: _Dispatch | None) -> None:
        """Read the metrics of a dispatch, check them, and add them to the progress of the current epoch."""
        if dispatched is None:
            return
        metrics = jax.device_get(dispatched.metrics)
        # It began after the dispatch before it had ended, if that was on the devices.
        start, self.read_time = max(dispatched.start, self.read_time), time.monotonic()
        self._check_loss(metrics["loss"], dispatched.before)
        sums, number = self.progress.sums, self.progress.epoch + 1
        sums.add(metrics, self.read_time - start)
        self.display.update(number, dispatched.after, sums.means("train"), sums.images_per_second)
        is_within_epoch = dispatched.after < number * self.steps_per_epoch
        if is_within_epoch and _crosses(self.config.log_every_steps, dispatched.before, dispatched.after):
            self.writer.write(self._metrics_line(dispatched.after))

    def _finish_epoch(self) -> None:
        """Evaluate the epoch if due, log it, and save if it is the best or the last or a save is due."""
        progress, step, number = self.progress, int(self.state.step), self.progress.epoch + 1
        is_last = number == self.config.num_epochs
        sums = self._evaluate() if is_last or number % self.config.eval_every_epochs == 0 else None

        progress.train_seconds += progress.sums.seconds
        progress.eval_seconds += sums.seconds if sums else 0.0
        line, seconds = self._metrics_line(step), progress.train_seconds + progress.eval_seconds
        line["epoch"] = number
        if sums:
            line |= sums.means(self.eval_name)
            line["seconds"] = seconds
            progress.last = line
        self.writer.write(line)
        parts = [format_epoch(line, self.config.num_epochs, self.eval_name), format_seconds(seconds)]
        self.display.say(", ".join(parts) + (f"; {self.status()}" if self.status else ""))

        progress.epoch = number
        progress.sums = Sums()
        is_best = sums is not None and progress.note_best(self.eval_name)
        if is_best or is_last or self._save_is_due(step):
            self._save()

    def _evaluate(self) -> Sums:
        """Score the evaluation split and record its confusion matrix."""
        size, batch_size = len(self.task.eval_split), self.config.eval_batch_size
        scores = evaluate(self.eval_steps, self.state, self.eval_data, size, batch_size, self._stop_if_asked)
        self.progress.confusion = scores.confusion.tolist()
        return scores.sums

    def _metrics_line(self, step: int) -> dict[str, float]:
        sums = self.progress.sums
        return {
            "epoch": step / self.steps_per_epoch,
            "step": step,
            "learning_rate": float(self.hyperparams_fn(step - 1).learning_rate),
            **sums.means("train"),
            "images_per_second": sums.images_per_second,
        }

    def _check_loss(self, losses: np.ndarray, steps_before: int) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step, epoch = steps_before + bad[0] + 1, self.progress.epoch + 1
            self.checkpointer.join()  # so that the message names the newest checkpoint
            raise Diverged(
                f"the loss became {losses[bad[0]]} at step {step:,} (epoch {epoch}), and "
                f"{self.checkpointer.last_good()}; start a new --workdir with a lower schedule.learning_rate"
            )

    def _save_is_due(self, step: int) -> bool:
        every = self.config.checkpoint
        by_steps = every.every_steps > 0 and step - self.last_save.step >= every.every_steps
        late = time.monotonic() - self.last_save.time >= 60 * every.every_minutes
        return by_steps or processes.largest(late) > 0

    def _save(self) -> None:
        self._record_all()
        self.checkpointer.join()  # A thread may still write to the place that is checked.
        self.check_place()
        with self._explaining_moved_workdirs():
            self.checkpointer.save(self.state, self.progress)
        self.last_save = _Save(int(self.state.step), self.progress.epoch, time.monotonic())

    def _wait_for_save(self) -> None:
        with self._explaining_moved_workdirs():
            self.checkpointer.wait()

    @contextlib.contextmanager
    def _explaining_moved_workdirs(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            self.check_place()  # It may have been moved meanwhile, which explains the error better.
            raise

    def _stop_if_asked(self) -> None:
        number = processes.largest(self.stop_signal[0] if self.stop_signal else 0)
        if number:
            if (int(self.state.step), self.progress.epoch) != self.last_save[:2]:
                self._save()
            self._wait_for_save()
            raise Interrupted(
                f"stopped by {signal.Signals(number).name} and saved after step {int(self.state.step):,}; run the same "
                "command to resume",
                128 + number,
            )

    def _summarise(self) -> dict[str, Any]:
        """Summarise the run, and write its results."""
        summary = summarise(self.task, self.state, self.progress, self.checkpointer, self.eval_steps)
        self.check_place()
        if processes.is_first():
            assert self.progress.confusion is not None  # Every evaluation sets it.
            write_confusion(self.progress.confusion, self.task.class_names, self.workdir)
            write_summary(summary, self.workdir)
        return summary


def _crosses(every: int, before: int, after: int) -> bool:
    """Return True if ``every`` is positive and has a multiple in (``before``, ``after``]."""
    return every > 0 and after // every > before // every
