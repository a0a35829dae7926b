"""Save and restore runs with orbax.

A fault costs at most the work since the newest undamaged checkpoint. orbax writes a checkpoint to a temporary folder
and renames it when it is complete. A checksum detects what orbax does not: bits that changed on the disk.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from jaxresnet.core.state import TrainState
from jaxresnet.system import processes
from jaxresnet.system.errors import Diverged, UserError, one_line
from jaxresnet.system.files import write_whole
from jaxresnet.workdir.folder import CHECKPOINTS_FOLDER, DAMAGED_FOLDER, read_summary
from jaxresnet.workdir.integrity import all_finite, check_fits, checksum, is_unreadable, quiet
from jaxresnet.workdir.progress import Progress

# Suffix of an old checkpoint while the same step is saved again.
_REPLACED = ".replaced"
NEWEST_FILE = "newest-checkpoint.json"

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
        self._thread = concurrent.futures.ThreadPoolExecutor(1) if _writes_in_background() else None
        self._running: concurrent.futures.Future[None] | None = None
        if not read_only:
            processes.in_first(self._end_replacements, "replacements ended")
            processes.in_first(self._delete_unfinished, "unfinished checkpoints deleted")
        with quiet():
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
                    enable_async_checkpointing=False,  # it would write in the background, but check in the foreground
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
            with hidden:
                self.wait()
        finally:
            try:
                if self._thread:
                    self._thread.shutdown()
            finally:
                self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Newest saved step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Save a checkpoint under the number of steps taken. If this fails, earlier checkpoints are kept.

        On accelerators a thread writes it, and training goes on. Errors of the thread are raised by ``wait``, or by the
        next ``save`` if that one fails as well.

        Raises:
            Diverged: a parameter, statistic or optimizer value is NaN or infinite.
            UserError: the checkpoint cannot be written.
        """
        try:
            self.wait()
            can_wait = True
        except Diverged:
            raise
        except UserError:  # such as a full disk; the new checkpoint is written at once, to learn whether it lasts
            can_wait = False
        saved, fields = {name: getattr(state, name) for name in _SAVED}, dataclasses.asdict(progress)
        if self._thread and can_wait:
            copied, is_finite = _copy(saved)
            self._running = self._thread.submit(self._write, copied, is_finite, fields)
        else:
            self._write(saved, all_finite(saved), fields)

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            Diverged: see ``save``.
            UserError: see ``save``.
        """
        running, self._running = self._running, None
        if running:
            running.result()

    def join(self) -> None:
        """Wait until no thread writes. Errors are left to ``wait`` and ``save``."""
        if self._running:
            concurrent.futures.wait([self._running])

    def _write(self, saved: dict[str, Any], is_finite: jax.Array, fields: dict[str, Any]) -> None:
        step = int(saved["step"])
        if not is_finite:
            raise Diverged(
                f"parameters became NaN or infinite at step {step:,}: "
                f"{self.last_good()}; start a new --workdir with a lower schedule.learning_rate"
            )
        fields["checksum"] = checksum(saved, fields)
        args = ocp.args.Composite(state=ocp.args.StandardSave(saved), progress=ocp.args.JsonSave(fields))
        self._best.step = fields["best"]["step"] if fields["best"] else None
        try:
            if step in self._manager.all_steps():
                # The run was stopped during an evaluation. Save the step again, now with the result.
                replaced = self._folder / f"{step}{_REPLACED}"
                processes.in_first(lambda: self._folder.joinpath(str(step)).rename(replaced), "replacement begun")
                self._manager.reload()
            self._manager.save(step, args=args)
            if processes.is_first():
                self._end_replacements()
                if self._folder.exists():  # the workdir may have been moved away
                    write_whole(self._workdir / NEWEST_FILE, json.dumps({"step": step}) + "\n")
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
        check_fits(saved["params"], self._folder / str(step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        try:
            with quiet():
                restored = self._manager.restore(step, args=args)
            arrays, fields = restored["state"], restored["progress"]
            expected = fields.pop("checksum")
            if checksum(arrays, fields) != expected:
                raise ValueError("its checksum is wrong")
            if int(arrays["step"]) != step:
                raise ValueError(f"it is that of step {int(arrays['step'])}")
            return state.replace(**arrays), Progress.from_json(fields)
        except jax.errors.JaxRuntimeError:  # another process has ended, or a device's memory is full
            raise
        except Exception as error:  # orbax and tensorstore raise many types
            if is_unreadable(error):
                raise UserError(
                    f"the checkpoint {self._folder / str(step)} cannot be read ({one_line(error)}); fix that, and "
                    "run the same command to resume"
                ) from error
            raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception) -> DamagedCheckpoint:
        return DamagedCheckpoint(f"the checkpoint {self._folder / str(step)} is damaged ({one_line(error)})")


def _writes_in_background() -> bool:
    """Return True if a thread writes checkpoints while the devices train.

    On CPUs it would take the cores that train. Several processes wait for each other in saves and in training. With a
    thread, each could do so in another order.
    """
    return jax.default_backend() != "cpu" and jax.process_count() == 1


@jax.jit
def _copy(tree: Any) -> tuple[Any, jax.Array]:
    """Copy arrays, because the next step overwrites those of the state. Return the copies and ``all_finite``."""
    return jax.tree.map(jnp.copy, tree), all_finite(tree)
