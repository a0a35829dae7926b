"""Save and restore runs with orbax.

A checkpoint holds a run's state, the variables of its best epoch, and its progress. orbax writes it to a temporary
folder and renames it when it is complete. A checksum detects what orbax does not: bits that changed on the disk. A
fault costs the work since the newest undamaged checkpoint and no more, because any step can be computed again.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import pathlib
import shutil
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from jaxresnet.config import CONFIG_FILE, changed_fields, load_config, restore_config
from jaxresnet.core.evaluation import Sums
from jaxresnet.core.state import TrainState
from jaxresnet.system import processes
from jaxresnet.system.errors import Diverged, UserError, one_line
from jaxresnet.workdir.folder import CHECKPOINTS_FOLDER, DAMAGED_FOLDER

# Saved fields of a TrainState, if they are not None. The others follow from the config.
_SAVED = ("step", "params", "batch_stats", "opt_state", "averages")


@dataclasses.dataclass
class Progress:
    """State of a run beside its TrainState, without which it could not resume. All but ``best_variables`` is JSON."""

    data_fingerprint: str | None  # checksum of the data; None until imported weights meet some
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # ``devices.settings()``
    epoch: int = 0  # running epoch, from 0
    sums: Sums = dataclasses.field(default_factory=Sums)  # over the steps of the running epoch
    last: dict[str, Any] | None = None  # line of ``metrics.jsonl`` of the last evaluated epoch
    best: dict[str, Any] | None = None  # epoch, from 1, step, loss and accuracy (%) of the best epoch so far
    best_variables: Any = dataclasses.field(default=None, compare=False)  # of the best epoch, on the devices
    train_seconds: float = 0.0  # time spent in training steps of finished epochs, compilation included
    eval_seconds: float = 0.0  # time spent in evaluation of finished epochs, compilation included
    confusion: list[list[int]] | None = None  # confusion matrix of the last evaluation

    def last_scores(self, split: str) -> dict[str, Any]:
        """Return ``epoch``, ``step``, ``loss`` and ``accuracy`` (%) of the last evaluation, made on ``split``.

        If averages were scored, ``raw_accuracy`` is that of the variables behind them.
        """
        assert self.last is not None
        keys = {name: f"{split}_{name}" for name in ("loss", "accuracy")} | {"raw_accuracy": f"raw_{split}_accuracy"}
        scores = {name: self.last[key] for name, key in keys.items() if key in self.last}
        return {"epoch": self.last["epoch"], "step": self.last["step"], **scores}

    def to_json(self) -> dict[str, Any]:
        """Return all fields but ``best_variables``."""
        fields = dataclasses.asdict(dataclasses.replace(self, best_variables=None))
        del fields["best_variables"]
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any], best_variables: Any) -> "Progress":
        """Invert ``to_json``."""
        return cls(**{**fields, "sums": Sums(**fields["sums"])}, best_variables=best_variables)


class DamagedCheckpoint(UserError):
    """A checkpoint whose content is invalid, not what was saved, or that of another run."""


class Checkpointer:
    """The latest few checkpoints of a run directory."""

    def __init__(self, workdir: pathlib.Path, keep: int = 1, read_only: bool = False):
        """Open ``workdir``/checkpoints.

        Args:
            workdir: run directory.
            keep: number of latest checkpoints to keep.
            read_only: True to never create or delete anything.
        """
        self._workdir = workdir
        self._folder = (workdir / CHECKPOINTS_FOLDER).absolute()  # orbax requires an absolute path
        if not read_only:
            processes.in_first(self._delete_unfinished, "unfinished checkpoints deleted")
        with _quiet():
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=False,  # it would write in the background, but check in the foreground
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def _delete_unfinished(self) -> None:
        """Delete what a killed save has left. orbax would do so in the background, beyond the end of a command."""
        for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished)

    def last_good(self) -> str:
        """Return a clause for error messages: which checkpoint is kept."""
        step = self._manager.latest_step()
        return "no checkpoint was saved yet" if step is None else f"the checkpoint of step {step} is kept"

    def save(self, state: TrainState, progress: Progress) -> None:
        """Save a checkpoint under the number of steps taken. If this fails, earlier checkpoints are kept.

        Raises:
            Diverged: a parameter, statistic or optimizer value is NaN or infinite.
            UserError: the checkpoint cannot be written.
        """
        arrays, step, fields = _arrays(state, progress.best_variables), int(state.step), progress.to_json()
        if not _all_finite(arrays):
            raise Diverged(
                f"parameters became NaN or infinite at step {step:,}: "
                f"{self.last_good()}; start a new --workdir with a lower schedule.learning_rate"
            )
        if (self._workdir / CONFIG_FILE).exists():
            fields["config"] = load_config(self._workdir).to_dict()
        fields["checksum"] = _checksum(arrays, fields)
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(fields))
        try:
            if step in self._manager.all_steps():  # The run was stopped in an evaluation. Now it has the result.
                processes.in_first(lambda: shutil.rmtree(self._folder / str(step)), "checkpoint without result deleted")
                self._manager.reload()
            self._manager.save(step, args=args)
            if not (self._folder / str(step) / "state" / "manifest.ocdbt").exists():
                raise OSError("orbax wrote it without a manifest, so it cannot be read")
        except jax.errors.JaxRuntimeError:  # another process has ended, so the caller ends this one too
            raise
        except Exception as error:  # orbax and tensorstore raise many types
            self._manager.reload()
            perhaps = ", perhaps because another process of this run has ended" if jax.process_count() > 1 else ""
            raise UserError(
                f"a checkpoint could not be written to {self._folder}{perhaps} ({one_line(error)}): "
                f"{self.last_good()}; fix that, and run the same command to resume"
            ) from error

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, Progress]:
        """Return the run as it was after ``step`` steps, with arrays placed like those of ``state``.

        Raises:
            DamagedCheckpoint: the checkpoint is not what was saved, or is of another run.
            UserError: the checkpoint cannot be accessed.
        """
        folder, changes = self._folder / str(step), {}
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state, state.variables))
        try:
            with _quiet():
                fields = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress
                if "config" in fields:  # First, because weights of another model do not fit these arrays.
                    changes = changed_fields(restore_config(fields["config"]), load_config(self._workdir))
                stored = ocp.args.StandardRestore(abstract)
                arrays = self._manager.restore(step, args=ocp.args.Composite(state=stored)).state
            expected = fields.pop("checksum")
            if _checksum(arrays, fields) != expected:
                raise ValueError("its checksum is wrong")
            if int(arrays["step"]) != step:
                raise ValueError(f"it is that of step {int(arrays['step'])}")
            if changes:
                raise ValueError("its config is not the run's")
            fields.pop("config", None)
            best = arrays.pop("best")
            return state.replace(**arrays), Progress.from_json(fields, best if fields["best"] else None)
        except jax.errors.JaxRuntimeError:  # another process has ended, or a device's memory is full
            raise
        except Exception as error:  # as in save
            if _is_about_access(error):
                raise UserError(
                    f"the checkpoint {folder} cannot be read ({one_line(error)}); fix that, and run the same command"
                ) from error
            fields = ", ".join(f"{name}={value!r}" for name, value in changes.items())
            problem = f"of another run ({fields})" if changes else f"damaged ({one_line(error)})"
            raise DamagedCheckpoint(f"the checkpoint {folder} is {problem}") from error

    def restore_newest(self, state: TrainState) -> tuple[TrainState, Progress] | None:
        """Restore the newest undamaged checkpoint. Return None if there is no checkpoint.

        If a checkpoint was restored, newer damaged ones are moved to ``damaged-checkpoints`` and named on stderr.

        Raises:
            UserError: all checkpoints are damaged, or one fails in ``restore`` for another reason.
        """
        damage: dict[int, DamagedCheckpoint] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, found = None, None
            try:
                restored = self.restore(state, step)
            except DamagedCheckpoint as error:
                found = error
            if processes.largest(found is not None):  # all processes must resume from the same step
                folder = self._folder / str(step)
                damage[step] = found or DamagedCheckpoint(f"{folder} is damaged where another process reads it")
                continue
            for damaged, reason in damage.items():
                processes.in_first(functools.partial(self._move_away, damaged), "damaged checkpoint moved")
                if processes.is_first():
                    place = f"it is now in {DAMAGED_FOLDER}, and the run goes on from step {step:,}"
                    print(f"note: {reason}; {place}", file=sys.stderr)
            if damage:
                self._manager.reload()
            return restored
        if damage:
            raise UserError(
                f"{self._workdir} has no checkpoint left that can be read: {next(iter(damage.values()))}; put "
                f"{CHECKPOINTS_FOLDER}/ back from a copy, or give another --workdir to start from the beginning"
            )
        return None

    def _move_away(self, step: int) -> None:
        folder = self._workdir / DAMAGED_FOLDER
        folder.mkdir(exist_ok=True)
        names = (f"{step}{suffix}" for suffix in ("", *(f".{number}" for number in range(2, 1000))))
        target = next(folder / name for name in names if not (folder / name).exists())
        self._folder.joinpath(str(step)).rename(target)

    def restore_named(self, state: TrainState, name: str | int) -> tuple[TrainState, Progress]:
        """Restore the checkpoint that a user names, and change nothing.

        Args:
            state: state whose shapes and placement the result has, as in ``restore``.
            name: ``"last"``, ``"best"``, or a step's number. ``"best"`` is the last checkpoint with step and variables
                of the best epoch; its optimizer state is that of the last step.

        Raises:
            DamagedCheckpoint: the checkpoint is damaged.
            UserError: there is no such checkpoint.
        """
        self._manager.reload()
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(f"{self._workdir} holds no checkpoint yet")
        name = str(name)
        if name not in ("last", "best") and not (name.isdecimal() and int(name) in steps):
            raise UserError(f"--checkpoint={name}: expected best, last, or one of {', '.join(map(str, steps))}")
        state, progress = self.restore(state, int(name) if name.isdecimal() else steps[-1])
        if name != "best":
            return state, progress
        if progress.best is None:
            raise UserError("no epoch has been evaluated yet, so none is the best; give --checkpoint=last")
        return state.with_variables(progress.best_variables).replace(step=jnp.int32(progress.best["step"])), progress


def _arrays(state: TrainState, best_variables: Any) -> dict[str, Any]:
    """Return the arrays of a checkpoint. Before the first evaluation the state's variables stand for the best ones."""
    arrays = {name: value for name in _SAVED if (value := getattr(state, name)) is not None}
    return arrays | {"best": best_variables or state.variables}


def _checksum(arrays: Any, fields: dict[str, Any]) -> str:
    """Return the CRC-32 of all values of a checkpoint, as 8 hexadecimal digits."""
    crc = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return f"{crc:08x}"


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    """Return True if no value is NaN or infinite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _is_about_access(error: BaseException) -> bool:
    """Return True if a checkpoint could not be opened (permissions, open-file limit), so that it may be undamaged."""
    while error.__cause__:
        error = error.__cause__
    is_refused = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
    return is_refused or "PERMISSION_DENIED" in str(error)  # as tensorstore words it


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence orbax's warnings about folders that are as intended."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
