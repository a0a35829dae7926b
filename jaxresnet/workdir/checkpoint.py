"""Save and restore runs with orbax.

A fault costs at most the work since the newest undamaged checkpoint. orbax writes a checkpoint to a temporary folder
and renames it when it is complete. A checksum detects what orbax does not: bits that changed on the disk.
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
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from jaxresnet.core.state import TrainState
from jaxresnet.system import processes
from jaxresnet.system.atomic_files import write_whole
from jaxresnet.system.errors import Diverged, UserError, one_line
from jaxresnet.workdir.files import read_summary
from jaxresnet.workdir.names import CHECKPOINTS_FOLDER, DAMAGED_FOLDER, NEWEST_FILE
from jaxresnet.workdir.progress import Progress

# Suffix of an old checkpoint while the same step is saved again.
_REPLACED = ".replaced"

# Saved fields of a TrainState. The others follow from the config.
_SAVED = ("step", "params", "batch_stats", "opt_state")


class DamagedCheckpoint(UserError):
    """A checkpoint whose content is invalid or is not what was saved."""


@dataclasses.dataclass
class _Best:
    """Policy that keeps the best epoch's checkpoint. orbax's own BestN forgets it when a run resumes."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpointer:
    """Checkpoints of a run directory: the latest few and the best."""

    def __init__(self, workdir: pathlib.Path, keep: int = 1, read_only: bool = False):
        """Open ``workdir``/checkpoints.

        Args:
            workdir: run directory.
            keep: number of latest checkpoints to keep. The best is kept too.
            read_only: True to never create or delete anything.
        """
        self._workdir, self._read_only = workdir, read_only
        self._folder = (workdir / CHECKPOINTS_FOLDER).absolute()  # orbax requires an absolute path
        self._best = _Best()
        # On CPU a saved array can share memory with the state. The next step would overwrite it.
        self._in_background = jax.default_backend() != "cpu"
        if not read_only:
            processes.in_first(self._end_replacements, "replacements ended")
            processes.in_first(self._delete_unfinished, "unfinished checkpoints deleted")
        with _quiet():
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
                    enable_async_checkpointing=self._in_background,
                    create=not read_only,
                    read_only=read_only,
                ),
            )

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # If the run ends with an error that the user can fix, another one here would hide it.
        hidden = contextlib.suppress(UserError) if isinstance(error, UserError) else contextlib.nullcontext()
        try:
            if not self._read_only:
                with hidden:
                    self._finish_saving()
        finally:
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Newest saved step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Save a checkpoint under the number of steps taken. If this fails, earlier checkpoints are kept.

        Raises:
            Diverged: a parameter, statistic or optimizer value is NaN or infinite.
            UserError: the checkpoint cannot be written.
        """
        saved = {name: getattr(state, name) for name in _SAVED}
        if not _all_finite(saved):
            raise Diverged(
                f"parameters became NaN or infinite at step {int(state.step):,}: "
                f"{self.last_good()}; start a new --workdir with a lower schedule.learning_rate"
            )
        step, fields = int(state.step), dataclasses.asdict(progress)
        fields["checksum"] = _checksum(saved, fields)
        args = ocp.args.Composite(state=ocp.args.StandardSave(saved), progress=ocp.args.JsonSave(fields))
        self._finish_saving()
        self._best.step = progress.best["step"] if progress.best else None
        try:
            if step in self._manager.all_steps():
                # The run was stopped during an evaluation. Save the step again, now with the result.
                replaced = self._folder / f"{step}{_REPLACED}"
                processes.in_first(lambda: self._folder.joinpath(str(step)).rename(replaced), "replacement begun")
                self._manager.reload()
            self._manager.save(step, args=args)
        except jax.errors.JaxRuntimeError:  # another process has ended, so the caller ends this one too
            raise
        except Exception as error:  # orbax and tensorstore raise many types
            raise self._not_written(error) from error
        if not self._in_background:
            self._finish_saving()

    def _finish_saving(self) -> None:
        """Wait for the running save, delete replaced checkpoints and record the newest step."""
        try:
            self._manager.wait_until_finished()
            if processes.is_first():
                self._end_replacements()
                is_new = self.latest_step is not None and self.latest_step != self._noted_step()
                if is_new and self._folder.exists():  # the workdir may have been moved away
                    write_whole(self._workdir / NEWEST_FILE, json.dumps({"step": self.latest_step}) + "\n")
        except jax.errors.JaxRuntimeError:  # another process has ended, so the caller ends this one too
            raise
        except Exception as error:
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> UserError:
        self._manager.reload()
        perhaps = ", perhaps because another process of this run has ended" if jax.process_count() > 1 else ""
        return UserError(
            f"a checkpoint could not be written to {self._folder}{perhaps} ({one_line(error)}): {self.last_good()}; "
            "fix that, and run the same command to resume"
        )

    def _end_replacements(self) -> None:
        """Delete checkpoints that were saved again. Restore those whose replacement was never finished."""
        for replaced in self._folder.glob(f"*{_REPLACED}"):
            replacement = replaced.with_suffix("")
            if replacement.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(replacement)

    def _delete_unfinished(self) -> None:
        """Delete what a killed save has left. orbax would do so in the background, beyond the end of a command."""
        for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished)

    def _noted_step(self) -> int | None:
        """Return the newest recorded step, even if it is gone. Return None if no step was ever saved."""
        try:
            return int(json.loads((self._workdir / NEWEST_FILE).read_text(encoding="utf-8"))["step"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):  # the record is damaged, but it shows that a step was saved
            return 0

    def last_good(self) -> str:
        """Return a clause for error messages: which checkpoint is kept."""
        if self.latest_step is None:
            return "no checkpoint was saved yet"
        return f"the checkpoint of step {self.latest_step} is kept"

    def restore_named(self, state: TrainState, name: str | int) -> tuple[TrainState, Progress]:
        """Restore the checkpoint that a user names, and change nothing.

        Args:
            state: state whose shapes and placement the result has, as in ``restore``.
            name: ``"last"``, ``"best"``, or a step's number.

        Raises:
            DamagedCheckpoint: the checkpoint is damaged, or the last one, which names the best.
            UserError: there is no such checkpoint, or the one that the run recorded as such is gone.
        """
        noted, name = self._noted_step(), str(name)  # noted first, because a run may be saving
        if summary := read_summary(self._workdir):
            noted = max(noted or 0, summary["last"]["step"])
        self._manager.reload()
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(f"{self._workdir} holds no checkpoint yet")
        there = f"restore {CHECKPOINTS_FOLDER}/ from a copy, or name one that is there: {', '.join(map(str, steps))}"
        if name not in ("last", "best"):
            if not name.isdecimal() or int(name) not in steps:
                raise UserError(f"--checkpoint={name}: expected best, last, or one of {', '.join(map(str, steps))}")
            return self.restore(state, int(name))
        if noted is not None and noted > steps[-1]:
            raise UserError(f"{self._workdir}: its last checkpoint, of step {noted:,}, is gone; {there}")
        last = self.restore(state, steps[-1])
        if name == "last":
            return last
        best = last[1].best
        if best is None:
            raise UserError("no epoch has been evaluated yet, so none is the best; give --checkpoint=last")
        if best["step"] not in steps:
            raise UserError(f"{self._workdir}: its best checkpoint, of step {best['step']:,}, is gone; {there}")
        return self.restore(state, best["step"])

    def restore_newest(self, state: TrainState) -> tuple[TrainState, Progress] | None:
        """Restore the newest undamaged checkpoint. Return None if none was ever saved.

        If a checkpoint was restored, newer damaged ones are moved to ``damaged-checkpoints`` and named on stderr.

        Raises:
            UserError: all checkpoints are damaged or gone, or one fails in ``restore`` for another reason.
        """
        damage: dict[int, DamagedCheckpoint] = {}
        noted = self._noted_step()
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
            assert restored is not None
            if noted is not None and noted > max(step, *damage, 0):
                self._note(f"the checkpoint of step {noted:,} is gone; going on from step {step:,}")
            for damaged, reason in damage.items():
                processes.in_first(functools.partial(self._move_away, damaged), "damaged checkpoint moved")
                self._note(f"{reason}; it is now in {DAMAGED_FOLDER}, and the run goes on from step {step:,}")
            if damage:
                self._manager.reload()
            self._best.step = restored[1].best["step"] if restored[1].best else None
            return restored
        if damage or noted is not None:
            first = f": {next(iter(damage.values()))}" if damage else ""
            raise UserError(
                f"{self._workdir} has no checkpoint left that can be read{first}; put {CHECKPOINTS_FOLDER}/ back from "
                "a copy, or give another --workdir to start from the beginning"
            )
        return None

    def _note(self, text: str) -> None:
        if processes.is_first():
            print(f"note: {text}", file=sys.stderr)

    def _move_away(self, step: int) -> None:
        folder = self._workdir / DAMAGED_FOLDER
        folder.mkdir(exist_ok=True)
        names = (f"{step}{suffix}" for suffix in ("", *(f".{number}" for number in range(2, 1000))))
        target = next(folder / name for name in names if not (folder / name).exists())
        self._folder.joinpath(str(step)).rename(target)

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, Progress]:
        """Return the run as it was after ``step`` steps, with arrays placed like those of ``state``.

        Raises:
            DamagedCheckpoint: the checkpoint is not what was saved.
            UserError: the checkpoint cannot be accessed, or it belongs to another model.
        """
        saved = {name: getattr(state, name) for name in _SAVED}
        self._check_fits(saved, step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        try:
            with _quiet():
                restored = self._manager.restore(step, args=args)
            arrays, fields = restored["state"], restored["progress"]
            checksum = fields.pop("checksum")
            if _checksum(arrays, fields) != checksum:
                raise ValueError("its checksum is wrong")
            if int(arrays["step"]) != step:
                raise ValueError(f"it is that of step {int(arrays['step'])}")
            return state.replace(**arrays), Progress.from_json(fields)
        except jax.errors.JaxRuntimeError:  # another process has ended, or a device's memory is full
            raise
        except Exception as error:  # orbax and tensorstore raise many types
            if _is_unreadable(error):
                raise UserError(
                    f"the checkpoint {self._folder / str(step)} cannot be read ({one_line(error)}); fix that, and "
                    "run the same command to resume"
                ) from error
            raise self._damaged(step, error) from error

    def _check_fits(self, saved: dict[str, Any], step: int) -> None:
        """Check the names and shapes of parameters, for a clearer message than orbax's own."""
        folder = self._manager.directory / str(step)
        try:
            with _quiet(), ocp.StandardCheckpointer() as checkpointer:
                there = checkpointer.metadata(folder / "state").item_metadata.tree["params"]
        except Exception:  # the checkpoint is damaged: restore() reports that
            return
        theirs, ours = _shapes(there), _shapes(saved["params"])
        differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f"the weights in {folder} are not those of the run's config: {len(differing)} differ, {name} is "
                f"{theirs.get(name)} there and {ours.get(name)} by the config; restore the config.json of that run"
            )

    def _damaged(self, step: int, error: Exception) -> DamagedCheckpoint:
        return DamagedCheckpoint(f"the checkpoint {self._folder / str(step)} is damaged ({one_line(error)})")


def _is_unreadable(error: Exception) -> bool:
    """Return True if the error is about access (permissions, open-file limit) rather than damage."""
    while error.__cause__ and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (
        isinstance(error, PermissionError)
        or (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE))
        or "PERMISSION_DENIED" in str(error)  # as tensorstore words it
    )


def _checksum(arrays: Any, fields: dict[str, Any]) -> str:
    """Return the CRC-32 of all values of a checkpoint, as 8 hexadecimal digits."""
    crc = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return f"{crc:08x}"


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence orbax's warnings about folders that are as intended."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
