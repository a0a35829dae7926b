"""Training: a run from its first step, or from its newest checkpoint, to its summary.

Commands call ``train_and_evaluate``; scripts and notebooks may prefer ``train``. ``_Trainer`` is the loop, with its
methods in the order in which they are called.
"""

import contextlib
import dataclasses
import pathlib
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxresnet.config import check_config, eval_split_name
from jaxresnet.core.evaluation import Sums, evaluate
from jaxresnet.core.model import count_parameters
from jaxresnet.core.programs import (
    create_mesh,
    dispatch,
    epoch_order,
    jit_steps,
    put_on_devices,
    replicate,
    steps_per_dispatch,
    train_batches,
)
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import create_train_state, create_transform
from jaxresnet.core.steps import Metrics, create_loss
from jaxresnet.data.cifar import CIFAR10
from jaxresnet.data.loading import Dataset, Split, hold_out
from jaxresnet.extensions import use_all
from jaxresnet.system import devices, processes
from jaxresnet.system.errors import Diverged, Interrupted, UserError, user_path
from jaxresnet.system.terminal import ProgressDisplay, format_seconds
from jaxresnet.workdir import folder as files
from jaxresnet.workdir.checkpoint import Checkpointer, Progress
from jaxresnet.workdir.log import MetricsWriter, format_epoch, is_epoch_line, open_wandb, read_metrics

if TYPE_CHECKING:
    from jaxresnet.inference import Classifier


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Train and evaluate in ``workdir``, or resume the run that is already there.

    Args:
        config: config with the fields of ``configs/default.py``.
        workdir: run directory: ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and, at the end,
            ``summary.json`` and ``confusion.csv``; ``failure.txt`` if the run diverged.

    Returns:
        The summary: ``best`` and ``last`` epoch, parameters, timings, device and versions. ``best`` names the split it
        was ``selected_on``. If it was selected on held-out training images, ``test`` is its only score on the test set.
        Timings cover training steps, compilation included, and evaluation, over all sessions.

    Raises:
        UserError: config, workdir or data set that cannot work.
        Diverged: the loss or a parameter became NaN or infinite.
        Interrupted: SIGINT, SIGTERM or SIGHUP came, and the run was saved.
        OSError: the workdir can no longer be written, as on a full disk. What was saved is kept.
    """
    folder = user_path(workdir)
    check_config(config)
    use_all(config)
    files.check_workdir(config, folder)
    if summary := files.read_summary(folder):
        print(f"{folder} already holds this run, finished.\n{files.format_summary(summary)}")
        return summary

    print(f"reading {config.dataset.data_dir or config.dataset.name} ...", flush=True)
    # Before the workdir is written, because it can fail. No name holds the data, so that the trainer can free them.
    trainer = _Trainer(config, processes.first_before_others(lambda: files.load_data(config, folder)), folder)
    with (
        files.opened(folder, config) if processes.is_first() else contextlib.nullcontext(),
        Checkpointer(folder, config.checkpoint.keep) as checkpointer,
        processes.ending_others_too(),
    ):
        summary = trainer.run(checkpointer)
    print(files.format_summary(summary))
    return summary


class _Dispatch(NamedTuple):
    """A dispatch whose metrics have not been read."""

    metrics: Metrics  # on the devices, which may still compute them
    before: int  # steps before the dispatch
    after: int  # steps after it
    start: float  # monotonic time at which it began


class _Trainer:
    """Training of one run. It changes ``state`` and ``progress``, from which checkpoints are made.

    Within an epoch, devices get the next dispatch before the metrics of the last one are read, so that they do not wait
    for the host. ``progress`` then lags behind ``state``, until the epoch ends or a save is due. Several processes do
    wait, because they agree after each dispatch whether to stop.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset, workdir: pathlib.Path):
        """Create what follows from config and data: splits, schedule, programs and the state before the first step.

        Raises:
            UserError: config and data do not fit each other.
        """
        self.config, self.dataset, self.workdir = config, dataset, workdir
        self.is_cifar10 = dataset.content() == CIFAR10.content
        self.train_split, self.eval_split = dataset.train, dataset.test
        if config.dataset.validation_size:
            self.train_split, self.eval_split = hold_out(dataset.train, config.dataset.validation_size)
        self.train_size = size = len(self.train_split)
        if config.batch_size > size:
            raise UserError(f"batch_size={config.batch_size} is larger than the {size:,} training images; reduce it")
        self.eval_name, self.mesh = eval_split_name(config), create_mesh()
        self.steps_per_epoch = -(-size // config.batch_size)
        self.hyperparams_fn = create_hyperparams_fn(config, self.steps_per_epoch)
        self.loss, transform = create_loss(config), create_transform(config)
        # Augmentation is traced here, so that a mistaken config is refused before the workdir is written.
        jax.eval_shape(transform.train, jax.random.key(0), self.train_split.images[:1], self.train_split.labels[:1])
        self.eval_steps = jit_steps(transform, self.mesh)
        state, self.imported = create_train_state(config, dataset.train.images.shape[1:]), None
        if config.init_from and not files.has_checkpoint(workdir):
            from jaxresnet.initial import begin_from  # Imported here because few runs need it.

            state, self.imported = begin_from(state, config, dataset.class_names)
        self.state = replicate(state, self.mesh)
        self.progress = Progress(data_fingerprint=dataset.fingerprint(), settings=devices.settings())
        self.unread: _Dispatch | None = None
        self.read_time = 0.0  # monotonic time at which metrics were last read

    def run(self, checkpointer: Checkpointer) -> dict[str, Any]:
        """Train the remaining epochs and return the summary."""
        self.checkpointer = checkpointer
        self._restore()
        step, image_shape = int(self.state.step), self.train_split.images.shape[1:]
        print(
            f"{count_parameters(self.state.params):,} parameters, {self.train_size:,} training images, "
            f"{self.steps_per_epoch} steps per epoch, {devices.device_name()}; "
            + ("compiling the first step ..." if step == 0 else f"resuming after step {step:,}"),
            flush=True,
        )
        train, alternating = self.train_split, self.config.augment.flip and self.config.augment.alternating_flip
        self.train_data = put_on_devices(train.images, train.labels, self.mesh, has_mirrored=alternating)
        self.eval_data = put_on_devices(self.eval_split.images, self.eval_split.labels, self.mesh)
        # The devices hold the training images now, so the host's are freed: 0.15 GB of CIFAR-10.
        self.train_split = Split(self.train_split.images[:0].copy(), self.train_split.labels[:0])
        self.dataset = dataclasses.replace(self.dataset, train=self.train_split)
        self.saved, self.save_time = (step, self.progress.epoch), time.monotonic()
        if self.imported is not None:
            if processes.is_first():
                files.write_json(self.workdir / files.IMPORTED_FILE, self.imported)
            self._save()  # so that the run resumes without the file that it began with
        # Progress is counted in pixels, because a step on smaller images does less work.
        sides = [create_transform(self.config, epoch).side or image_shape[0] for epoch in range(self.config.num_epochs)]
        work = np.cumsum([0, *np.repeat(np.square(sides), self.steps_per_epoch)])
        self.display = ProgressDisplay(self.config.num_epochs, work, step)
        with (
            contextlib.closing(self._open_log()) if processes.is_first() else contextlib.nullcontext() as self.log,
            contextlib.closing(self.display),
            processes.stop_signal() as self.stop_signal,
        ):
            while self.progress.epoch < self.config.num_epochs:
                self._train_epoch()
                self._finish_epoch()
        return self._summarise()

    def _restore(self) -> None:
        """Continue from the newest checkpoint, or else from the run to branch off, if there is one."""
        restored = self.checkpointer.restore_newest(self.state)
        origin, remedy = f"{self.workdir} holds a run", "give another --workdir, or"
        if restored is None and self.config.branch_from:
            from jaxresnet.initial import branch_off  # Imported here because few runs need it.

            restored, self.imported = branch_off(self.state, self.config, self.steps_per_epoch, self.workdir)
            origin, remedy = f"branch_from={self.config.branch_from} is a run", "give"
        if restored is None:
            return
        fingerprint, (self.state, self.progress) = self.progress.data_fingerprint, restored
        before, self.progress.settings = self.progress.settings, devices.settings()
        for name, value in before.items() if processes.is_first() else ():
            if (now := self.progress.settings.get(name)) != value:
                print(f"note: {name} was {value!r} and is {now!r}, which may change the numbers", file=sys.stderr)
        self.progress.data_fingerprint = self.progress.data_fingerprint or fingerprint  # Imported weights have none.
        if self.progress.data_fingerprint != fingerprint:
            raise UserError(
                f"{origin} on other data (checksum {self.progress.data_fingerprint}, now {fingerprint}); "
                f"{remedy} the data that this run was started with"
            )

    def _open_log(self) -> MetricsWriter:
        files.write_class_names(self.dataset.class_names, self.workdir)
        if self.dataset.test_files is not None:
            files.write_json(self.workdir / files.SPLIT_FILE, {"test": self.dataset.test_files})
        tracker = open_wandb(self.config, self.workdir) if self.config.tracker else None
        return MetricsWriter(self.workdir, int(self.state.step), self.progress.epoch, self.progress.last, tracker)

    def _train_epoch(self) -> None:
        """Train the remaining steps of the current epoch."""
        config, epoch, step = self.config, self.progress.epoch, int(self.state.step)
        train = jit_steps(create_transform(config, epoch), self.mesh, self.loss).train
        order = epoch_order(config.seed, epoch, self.train_size, self.train_data.has_mirrored)
        at_once = steps_per_dispatch(config.steps_per_dispatch)
        for indices in train_batches(order, config.batch_size, step - epoch * self.steps_per_epoch, at_once):
            start, after = time.monotonic(), step + len(indices)
            hyperparams = jax.tree.map(np.float32, self.hyperparams_fn(np.arange(step, after)))
            self.state, metrics = dispatch(train, self.state, self.train_data, indices, hyperparams)
            last, self.unread, step = self.unread, _Dispatch(metrics, step, after, start), after
            self._record(last)
            if not step & (step - 1):  # At powers of two, because the first steps leave most unused: up to 0.5 GB.
                devices.return_freed_memory()
            if step < (epoch + 1) * self.steps_per_epoch and self._save_is_due(step):
                self._save()
            self._stop_if_asked()
        self._record_all()

    def _record(self, dispatched: _Dispatch | None) -> None:
        """Read the metrics of a dispatch, check them, and add them to the progress of the current epoch."""
        if dispatched is None:
            return
        metrics, number = jax.device_get(dispatched.metrics), self.progress.epoch + 1
        # It began after the dispatch before it had ended, if that was on the devices.
        start, self.read_time = max(dispatched.start, self.read_time), time.monotonic()
        if len(bad := np.flatnonzero(~np.isfinite(metrics["loss"]))):
            raise Diverged(
                f"the loss became {metrics['loss'][bad[0]]} at step {dispatched.before + bad[0] + 1:,} (epoch "
                f"{number}), and {self.checkpointer.last_good()}; start a new --workdir with a lower "
                "schedule.learning_rate"
            )
        sums, every = self.progress.sums, self.config.log_every_steps
        sums.add(metrics, self.read_time - start)
        self.display.update(number, dispatched.after, sums.means("train"), sums.images_per_second)
        is_due = every > 0 and dispatched.after // every > dispatched.before // every
        if self.log and is_due and dispatched.after < number * self.steps_per_epoch:
            self.log.write(self._metrics_line(dispatched.after))

    def _record_all(self) -> None:
        """Wait for the devices and record their last dispatch, so that ``progress`` is that of ``state``."""
        last, self.unread = self.unread, None
        self._record(last)

    def _metrics_line(self, step: int) -> dict[str, float]:
        sums = self.progress.sums
        return {
            "epoch": step / self.steps_per_epoch,
            "step": step,
            "learning_rate": float(self.hyperparams_fn(step - 1).learning_rate),
            **sums.means("train"),
            "images_per_second": sums.images_per_second,
        }

    def _finish_epoch(self) -> None:
        """Evaluate the epoch if due, log it, and save if it is the last or a save is due."""
        progress, step, number = self.progress, int(self.state.step), self.progress.epoch + 1
        is_last = number == self.config.num_epochs
        is_evaluated = is_last or number % self.config.eval_every_epochs == 0
        scores, eval_seconds = self._evaluate() if is_evaluated else ({}, 0.0)
        progress.train_seconds += progress.sums.seconds
        progress.eval_seconds += eval_seconds
        seconds = progress.train_seconds + progress.eval_seconds
        line = self._metrics_line(step) | {"epoch": number}
        if is_evaluated:
            line |= scores | {"seconds": seconds}
            progress.last = line
            if progress.best is None or line[f"{self.eval_name}_accuracy"] > progress.best["accuracy"]:
                progress.best = progress.last_scores(self.eval_name)
                progress.best_variables = _copy(self.state.variables)  # the next step overwrites the state's arrays
        if self.log:
            self.log.write(line)
        text = f"{format_epoch(line, self.config.num_epochs, self.eval_name)}, {format_seconds(seconds)}"
        self.display.say(text)
        progress.epoch, progress.sums = number, Sums()
        if is_last or self._save_is_due(step):
            self._save()

    def _evaluate(self) -> tuple[dict[str, float], float]:
        """Score the evaluation split, record its confusion matrix, and return loss, accuracy and time.

        If there are averages, ``raw_{split}_loss`` and ``raw_{split}_accuracy`` are of the variables behind them.
        """
        state, size, batch_size = self.state, len(self.eval_split), self.config.eval_batch_size
        raw = {} if state.averages is None else {"raw_": state.raw_variables}
        means: dict[str, float] = {}
        seconds = 0.0
        for prefix, variables in (raw | {"": state.variables}).items():
            each = state.with_variables(variables)
            scores = evaluate(self.eval_steps, each, self.eval_data, size, batch_size, lambda _: self._stop_if_asked())
            means |= scores.sums.means(prefix + self.eval_name)
            seconds += scores.sums.seconds
            self.progress.confusion = scores.confusion.tolist()
        return means, seconds

    def _save_is_due(self, step: int) -> bool:
        every = self.config.checkpoint
        by_steps = every.every_steps > 0 and step // every.every_steps > self.saved[0] // every.every_steps
        late = time.monotonic() - self.save_time >= 60 * every.every_minutes
        return by_steps or processes.largest(late) > 0  # clocks differ between processes

    def _save(self) -> None:
        self._record_all()
        self.checkpointer.save(self.state, self.progress)
        self.saved, self.save_time = (int(self.state.step), self.progress.epoch), time.monotonic()

    def _stop_if_asked(self) -> None:
        """End the run, saved, if a signal came.

        Raises:
            Interrupted: a signal came.
        """
        number = processes.largest(self.stop_signal[0] if self.stop_signal else 0)
        if not number:
            return
        if (int(self.state.step), self.progress.epoch) != self.saved:
            self._save()
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} and saved after step {int(self.state.step):,}; run the same "
            "command to resume",
            128 + number,
        )

    def _summarise(self) -> dict[str, Any]:
        """Write the results and return the summary.

        If the best epoch was selected on held-out training images, it is scored on the test set here, once.
        """
        progress, config, split = self.progress, self.config, self.eval_name
        assert progress.best is not None and progress.confusion is not None  # The last epoch is evaluated.
        summary = {
            "best": progress.best | {"selected_on": split},
            "last": progress.last_scores(split),
            "evaluated_on": split,
            "paper_accuracy": config.paper.accuracy if self.is_cifar10 else None,
            "parameters": count_parameters(self.state.params),
            "wall_seconds": progress.train_seconds + progress.eval_seconds,
            "train_seconds": progress.train_seconds,
            "images_per_second": config.num_epochs * self.train_size / progress.train_seconds,
            "data_fingerprint": progress.data_fingerprint,
            **devices.describe(),
        }
        if split != "test":
            best, test = self.state.with_variables(progress.best_variables), self.dataset.test
            data = put_on_devices(test.images, test.labels, self.mesh)
            scores = evaluate(self.eval_steps, best, data, len(test), config.eval_batch_size)
            summary["test"] = {"epoch": progress.best["epoch"], **scores.sums.means("test")}
        if processes.is_first():
            files.write_confusion(progress.confusion, self.dataset.class_names, self.workdir)
            files.write_summary(summary, self.workdir)
        return summary


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


class Run(NamedTuple):
    """A trained run.

    Attributes:
        workdir: run directory.
        classifier: classifier of the last epoch.
        summary: what ``train_and_evaluate`` returns.
        metrics: columns of ``metrics.jsonl`` at evaluated epochs, by name: ``epoch``, ``train_loss``,
            ``test_accuracy`` and so on. ``pandas.DataFrame`` accepts them.
    """

    workdir: pathlib.Path
    classifier: "Classifier"
    summary: dict[str, Any]
    metrics: dict[str, np.ndarray]


def train(config: ConfigDict, workdir: str | pathlib.Path) -> Run:
    """Train in ``workdir``, or resume the run that is already there, and return what was trained.

    Args:
        config: config with the fields of ``configs/default.py``, such as ``jaxresnet.get_config("final")``.
        workdir: run directory.

    Raises:
        UserError: config, workdir or data set that cannot work.
        Diverged: the loss or a parameter became NaN or infinite.
        Interrupted: a signal came and the run was saved.
    """
    from jaxresnet.inference import load  # Imported here because the loop does not need it.

    folder = user_path(workdir)
    summary = train_and_evaluate(config, folder)
    lines = [line for line in read_metrics(folder) if is_epoch_line(line)]
    names = lines[-1] if lines else ()  # the log of a finished run may be gone
    metrics = {name: np.array([line[name] for line in lines]) for name in names}
    return Run(folder, load(folder), summary, metrics)
