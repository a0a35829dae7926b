"""The training loop: epochs, dispatches, evaluation, checkpoints."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxresnet import environment, hosts, interrupts
from jaxresnet.checkpoint import Checkpointer, DamagedCheckpoint
from jaxresnet.config import check_config, eval_split_name
from jaxresnet.datasets import Dataset, class_names, hold_out, load_dataset
from jaxresnet.errors import Diverged, Interrupted, UserError, user_path
from jaxresnet.evaluate import evaluate
from jaxresnet.flop import flop_until
from jaxresnet.metrics import MetricsWriter, NoWriter, ProgressDisplay, Sums, format_seconds
from jaxresnet.models import count_parameters
from jaxresnet.progress import Progress
from jaxresnet.run_files import format_summary, read_summary, write_confusion, write_failure, write_summary
from jaxresnet.schedules import create_hyperparams_fn
from jaxresnet.steps import (
    compile_steps,
    create_mesh,
    dispatch,
    epoch_order,
    put_on_devices,
    replicate,
    steps_per_dispatch,
    train_dispatches,
)
from jaxresnet.train_state import TrainState, create_train_state, create_transform
from jaxresnet.workdirs import check_workdir, explaining_full_disks, opened


def train_and_evaluate(config: ConfigDict, workdir: str, status: Callable[[], str] | None = None) -> dict[str, Any]:
    """Trains, evaluates, and leaves everything in ``workdir``; resumes what is already there.

    Args:
        config: see ``configs/default.py``.
        workdir: folder of the run: ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and, at the
            end, ``summary.json`` and ``confusion.csv``; ``failure.txt`` where it diverged.
        status: what to add to the line that each epoch prints.

    Returns:
        The summary: ``best`` and ``last`` epoch, with what the best was ``selected_on``; ``test``, the one score of the
        test set where the best was selected on held-out training images; parameters, timings (of training steps,
        compilation included, and evaluation, over all sessions; not of start-up and saving), device, versions.

    Raises:
        UserError: a config, workdir or data set that cannot work.
        Diverged: the loss or a parameter became NaN or infinite.
        Interrupted: SIGINT or SIGTERM came; the run is saved. A command that has taken no step yet ends on the spot
            instead.
    """
    folder = user_path(workdir)
    check_config(config)
    check_workdir(config, folder)
    if summary := read_summary(folder):
        print(f"{folder} holds this run already, finished.\n{format_summary(summary)}")
        return summary

    dataset = hosts.first_before_others(
        lambda: load_dataset(config.dataset.name, config.dataset.data_dir, config.model.num_classes)
    )
    trainer = _Trainer(config, dataset, status)
    with opened(folder, config):
        try:
            with (
                explaining_full_disks(folder),
                Checkpointer(folder, config.checkpoint.keep) as checkpointer,
                hosts.ending_others_too(),
                explaining_full_disks(folder),  # here, too, since the line before may end the process
            ):
                summary = trainer.run(folder, checkpointer)
        except Diverged as error:
            if hosts.is_first():
                write_failure(str(error), folder)
            raise
    print(format_summary(summary))
    return summary


class _Save(NamedTuple):
    """When the run was last saved, or begun: after how many steps and whole epochs, and at what time."""

    step: int
    epoch: int
    time: float


class _Trainer:
    """One run. What changes while it trains is ``state`` and ``progress``, which checkpoints hold."""

    def __init__(self, config: ConfigDict, dataset: Dataset, status: Callable[[], str] | None):
        self.config, self.status = config, status
        self.eval_name = eval_split_name(config)
        self.test_split = dataset.test
        if config.dataset.validation_size:
            self.train_split, self.eval_split = hold_out(dataset.train, config.dataset.validation_size)
        else:
            self.train_split, self.eval_split = dataset.train, dataset.test
        if config.batch_size > len(self.train_split):
            raise UserError(
                f"batch_size={config.batch_size}: larger than the {len(self.train_split):,} training images; give fewer"
            )
        self.steps_per_epoch = -(-len(self.train_split) // config.batch_size)
        self.total_steps = self.steps_per_epoch * config.num_epochs
        self.hyperparams_fn = create_hyperparams_fn(config, self.steps_per_epoch)

        self.mesh = create_mesh()
        self.steps = compile_steps(create_transform(config), self.mesh)
        state = create_train_state(config, dataset.train.images.shape[1:])
        self.state = replicate(state, self.mesh)
        self.progress = Progress(data_fingerprint=dataset.fingerprint())

    def run(self, workdir: pathlib.Path, checkpointer: Checkpointer) -> dict[str, Any]:
        self.checkpointer = checkpointer
        self._resume(workdir)
        self.train_data = put_on_devices(self.train_split, self.mesh)
        self.eval_data = put_on_devices(self.eval_split, self.mesh)
        step = int(self.state.step)
        self.last_save = _Save(step, self.progress.epoch, time.monotonic())
        print(
            f"{count_parameters(self.state.params):,} parameters, {len(self.train_split):,} training images, "
            f"{self.steps_per_epoch} steps an epoch, {environment.device_name()}; "
            + ("compiling the first step ..." if step == 0 else f"resuming after step {step:,}"),
            flush=True,
        )
        with contextlib.ExitStack() as start_up, interrupts.stop_signal() as self.stop_signal:
            if jax.process_count() == 1:  # several have to agree on their end
                line = "jaxresnet: stopped by {signal} before another step was taken; the same command goes on"
                start_up.enter_context(interrupts.ending_compilation_too(line))
            self.leave_start_up = start_up.close  # once there is something to save; later calls change nothing
            self.writer = (
                MetricsWriter(workdir, step, self.progress.epoch, self.progress.last)
                if hosts.is_first()
                else NoWriter()
            )
            self.display = ProgressDisplay(self.config.num_epochs, self._work(), step)
            with contextlib.closing(self.writer), contextlib.closing(self.display):
                while self.progress.epoch < self.config.num_epochs:
                    self._train_epoch()
                    self._finish_epoch()
        return self._summarise(workdir)

    def _resume(self, workdir: pathlib.Path) -> None:
        restored = self.checkpointer.restore_newest(self.state)
        if restored is None:
            return
        fingerprint = self.progress.data_fingerprint
        self.state, self.progress = restored
        if self.progress.data_fingerprint is None:
            self._place_imported_weights(workdir, fingerprint)
        if self.progress.data_fingerprint != fingerprint:
            raise UserError(
                f"{workdir} holds a run on other data (checksum {self.progress.data_fingerprint}, now {fingerprint}); "
                "give another --workdir, or the data that this run was started with"
            )

    def _place_imported_weights(self, workdir: pathlib.Path, fingerprint: str | None) -> None:
        """Only the data tell how many steps the epochs took that imported weights have behind them."""
        epoch = self.progress.epoch
        if epoch >= self.config.num_epochs:
            raise UserError(
                f"{workdir} holds weights imported after epoch {epoch} of {self.config.num_epochs}, so nothing is left "
                "to train; score them with jaxresnet.evaluate, or import them again with another --epoch"
            )
        self.progress.data_fingerprint = fingerprint
        self.progress.first_step = epoch * self.steps_per_epoch
        self.state = self.state.replace(step=replicate(jnp.int32(self.progress.first_step), self.mesh))

    def _work(self) -> np.ndarray:
        """What is done after each number of steps, from none to all. A step on smaller images does less."""
        return flop_until(self.config, np.arange(self.total_steps + 1) / self.steps_per_epoch)

    def _train_epoch(self) -> None:
        """The steps of the running epoch that remain."""
        epoch, batch_size = self.progress.epoch, self.config.batch_size
        train = compile_steps(create_transform(self.config, epoch), self.mesh, self.config.label_smoothing).train
        order = epoch_order(self.config.seed, epoch, len(self.train_split))
        step = int(self.state.step)
        at_once = steps_per_dispatch(self.config.steps_per_dispatch)
        for indices in train_dispatches(order, batch_size, step - epoch * self.steps_per_epoch, at_once):
            start = time.monotonic()
            hyperparams = self.hyperparams_fn(np.arange(step, step + len(indices)))
            hyperparams = jax.tree.map(np.float32, hyperparams)
            self.state, metrics = dispatch(train, self.state, self.train_data, indices, hyperparams)
            metrics = jax.device_get(metrics)
            self.leave_start_up()
            before, step = step, step + len(indices)
            self._check_loss(metrics["loss"], before)
            self.progress.sums.add(metrics, time.monotonic() - start)
            self.display.update(epoch + 1, step, self.progress.sums)

            if step < (epoch + 1) * self.steps_per_epoch:
                if _crosses(self.config.log_every_steps, before, step):
                    self.writer.write(self._metrics_line(step))
                if self._save_is_due(step):
                    self._save()
            self._stop_if_asked()

    def _finish_epoch(self) -> None:
        """Evaluate the epoch if its turn has come, write its line, and save it if it is the best or a save is due."""
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
        name = self.eval_name
        self.display.say(
            f"epoch {number}/{self.config.num_epochs}: loss {line['train_loss']:.4f}, accuracy "
            f"{line['train_accuracy']:.2f}%, "
            + (
                f"{name} loss {line[f'{name}_loss']:.4f}, {name} accuracy {line[f'{name}_accuracy']:.2f}%, "
                if sums
                else ""
            )
            + format_seconds(seconds)
            + (f"; {self.status()}" if self.status else "")
        )

        progress.epoch = number
        progress.sums = Sums()
        is_best = sums is not None and (progress.best is None or line[f"{name}_accuracy"] > progress.best["accuracy"])
        if is_best:
            loss, accuracy = line[f"{name}_loss"], line[f"{name}_accuracy"]
            progress.best = {"epoch": number, "step": step, "loss": loss, "accuracy": accuracy}
        if is_best or is_last or self._save_is_due(step):
            self._save()

    def _evaluate(self) -> Sums:
        """Score the evaluation split, and note the confusion matrix."""
        size, batch_size = len(self.eval_split), self.config.eval_batch_size
        scores = evaluate(self.steps, self.state, self.eval_data, size, batch_size, self._stop_if_asked)
        self.leave_start_up()
        self.progress.confusion = scores.confusion.tolist()
        return scores.sums

    def _metrics_line(self, step: int) -> dict[str, float]:
        sums = self.progress.sums
        return {
            "epoch": step / self.steps_per_epoch,
            "step": step,
            "learning_rate": float(self.hyperparams_fn(step - 1).learning_rate),
            **sums.means("train"),
            "images_per_second": sums.count / sums.seconds,
        }

    def _check_loss(self, losses: np.ndarray, steps_before: int) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step, epoch = steps_before + bad[0] + 1, self.progress.epoch + 1
            raise Diverged(
                f"the loss became {losses[bad[0]]} at step {step:,} (epoch {epoch}); "
                f"{self.checkpointer.last_good()}; start a new --workdir with a lower schedule.learning_rate"
            )

    def _save_is_due(self, step: int) -> bool:
        every = self.config.checkpoint
        by_steps = every.every_steps > 0 and step - self.last_save.step >= every.every_steps
        late = time.monotonic() - self.last_save.time >= 60 * every.every_minutes
        return by_steps or hosts.largest(late) > 0

    def _save(self) -> None:
        self.checkpointer.save(self.state, self.progress)
        self.last_save = _Save(int(self.state.step), self.progress.epoch, time.monotonic())

    def _stop_if_asked(self) -> None:
        number = hosts.largest(self.stop_signal[0] if self.stop_signal else 0)
        if number:
            if (int(self.state.step), self.progress.epoch) != self.last_save[:2]:
                self._save()
            raise Interrupted(
                f"stopped by {signal.Signals(number).name} and saved after step {int(self.state.step):,}; the same "
                "command goes on from there",
                128 + number,
            )

    def _summarise(self, workdir: pathlib.Path) -> dict[str, Any]:
        progress, last = self.progress, self.progress.last
        assert last is not None and progress.best is not None and progress.confusion is not None  # by every evaluation
        epochs_here = self.config.num_epochs - progress.first_step // self.steps_per_epoch
        summary = {
            "best": progress.best | {"selected_on": self.eval_name},
            "last": {
                "epoch": last["epoch"],
                "step": last["step"],
                "loss": last[f"{self.eval_name}_loss"],
                "accuracy": last[f"{self.eval_name}_accuracy"],
            },
            "evaluated_on": self.eval_name,
            "paper_accuracy": self.config.paper.accuracy,
            "parameters": count_parameters(self.state.params),
            "wall_seconds": progress.train_seconds + progress.eval_seconds,
            "train_seconds": progress.train_seconds,
            "images_per_second": epochs_here * len(self.train_split) / progress.train_seconds,
            "data_fingerprint": progress.data_fingerprint,
            **environment.describe(),
        }
        if self.eval_name != "test":
            best_state = self._best_state(progress.best["step"])
            test_data = put_on_devices(self.test_split, self.mesh)
            sums, _ = evaluate(self.steps, best_state, test_data, len(self.test_split), self.config.eval_batch_size)
            summary["test"] = {"epoch": progress.best["epoch"], **sums.means("test")}
        names = class_names(self.config.dataset.name, self.config.model.num_classes)
        if hosts.is_first():
            write_confusion(progress.confusion, names, workdir)
            write_summary(summary, workdir)
        return summary

    def _best_state(self, step: int) -> TrainState:
        try:
            return self.checkpointer.restore(self.state, step)[0]
        except DamagedCheckpoint as error:
            raise UserError(
                f"{error}, which is the best epoch's, so the test set cannot be scored with it; put it back from a "
                "copy, or score the last one: jaxresnet.evaluate --checkpoint=last"
            ) from error


def _crosses(every: int, before: int, after: int) -> bool:
    """Whether a multiple of ``every`` lies in (``before``, ``after``]; never where ``every`` is 0."""
    return every > 0 and after // every > before // every
