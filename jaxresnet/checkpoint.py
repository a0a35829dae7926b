"""Saving and restoring runs with orbax, so that no fault costs more than the work since the newest good checkpoint.

orbax writes a checkpoint beside its place and moves it there once it is whole. What it does not notice, bits that
changed on the disk, a checksum does.
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

from jaxresnet import hosts
from jaxresnet.errors import Diverged, UserError, one_line
from jaxresnet.files import write_whole
from jaxresnet.progress import Progress
from jaxresnet.train_state import TrainState

CHECKPOINTS_FOLDER = "checkpoints"
DAMAGED_FOLDER = "damaged-checkpoints"
NEWEST_FILE = "newest-checkpoint.json"

# Of a checkpoint that is being saved again.
_REPLACED = ".replaced"

# What is saved of a TrainState. The rest of it follows from the config.
_SAVED = ("step", "params", "batch_stats", "opt_state")


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or does not hold what was saved."""


@dataclasses.dataclass
class _Best:
    """Keeps the checkpoint of the best epoch. orbax's own BestN forgets it where a run is resumed."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpointer:
    """The checkpoints of a workdir: the latest few and the best."""

    def __init__(self, workdir: pathlib.Path, keep: int = 1, read_only: bool = False):
        """Opens ``workdir``/checkpoints.

        Args:
            workdir: of the run.
            keep: how many of the latest to keep; the best is kept beside them.
            read_only: never to create or delete anything.
        """
        self._workdir, self._read_only = workdir, read_only
        self._folder = (workdir / CHECKPOINTS_FOLDER).absolute()  # orbax accepts no other
        self._best = _Best()
        # On CPU a saved array can share memory with the state, which the next step overwrites.
        self._in_background = jax.default_backend() != "cpu"
        if not read_only:
            hosts.in_first(self._end_replacements, "replacements ended")
        with _quiet():
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
                    enable_async_checkpointing=self._in_background,
                    cleanup_tmp_directories=not read_only,
                    create=not read_only,
                    read_only=read_only,
                ),
            )

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if not self._read_only:
                self._finish_saving()
        finally:
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Saves under the number of steps taken.

        Raises:
            Diverged: a parameter or statistic is NaN or infinite; what was saved before stays.
            UserError: the checkpoint cannot be written; what was saved before stays.
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
                # Stopped while an epoch was evaluated; now it has been, and the step is saved with the outcome.
                replaced = self._folder / f"{step}{_REPLACED}"
                hosts.in_first(lambda: self._folder.joinpath(str(step)).rename(replaced), "replacement begun")
                self._manager.reload()
            self._manager.save(step, args=args)
        except jax.errors.JaxRuntimeError:  # another process has ended
            raise
        except Exception as error:  # orbax and tensorstore raise types of their own
            raise self._not_written(error) from error
        if not self._in_background:
            self._finish_saving()

    def _finish_saving(self) -> None:
        """Waits for what is being saved, and then notes which is the newest."""
        try:
            self._manager.wait_until_finished()
        except jax.errors.JaxRuntimeError:  # as above
            raise
        except Exception as error:
            raise self._not_written(error) from error
        if hosts.is_first():
            self._end_replacements()
            if self.latest_step is not None and self.latest_step != self._noted_step():
                write_whole(self._workdir / NEWEST_FILE, json.dumps({"step": self.latest_step}) + "\n")

    def _not_written(self, error: Exception) -> UserError:
        self._manager.reload()
        perhaps = ", perhaps as another process of this run has ended" if jax.process_count() > 1 else ""
        return UserError(
            f"a checkpoint could not be written to {self._folder}{perhaps} ({one_line(error)}); {self.last_good()}; "
            "mend that, and the same command goes on from there"
        )

    def _end_replacements(self) -> None:
        """Removes checkpoints that were saved again, and puts those back whose replacement was never finished."""
        for replaced in self._folder.glob(f"*{_REPLACED}"):
            replacement = replaced.with_suffix("")
            if replacement.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(replacement)

    def _noted_step(self) -> int | None:
        """The newest step that was saved, whether it is still there or not; None where none ever was."""
        try:
            return int(json.loads((self._workdir / NEWEST_FILE).read_text())["step"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):  # damaged; but something was saved
            return 0

    def last_good(self) -> str:
        """Says which checkpoint stays when training fails."""
        if self.latest_step is None:
            return "no checkpoint was saved yet"
        return f"the checkpoint of step {self.latest_step} is kept"

    def find(self, name: str | int) -> int:
        """The step of a checkpoint: ``"last"``, ``"best"``, or a step's number.

        Raises:
            UserError: there is none such, and the message lists those there are; or the last one is damaged.
        """
        steps, name = sorted(self._manager.all_steps()), str(name)
        if not steps:
            raise UserError(f"{self._manager.directory.parent} holds no checkpoint yet")
        if name == "last":
            return steps[-1]
        if name == "best":
            best = self._progress(steps[-1]).best
            if best is None:
                raise UserError("no epoch has been evaluated yet, so none is the best; give --checkpoint=last")
            return best["step"]
        if not name.isdecimal() or int(name) not in steps:
            raise UserError(f"--checkpoint={name}: expected best, last, or one of {', '.join(map(str, steps))}")
        return int(name)

    def _progress(self, step: int) -> Progress:
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
            del restored["progress"]["checksum"]  # which restoring the state checks
            return Progress.from_json(restored["progress"])
        except Exception as error:  # orbax raises types of its own
            raise self._damaged(step, error) from error

    def restore_newest(self, state: TrainState) -> tuple[TrainState, Progress] | None:
        """The run as the newest checkpoint that is not damaged holds it; None where none was saved yet.

        Damaged ones are moved out of the way, to ``damaged-checkpoints``, and a line on stderr names them.

        Raises:
            UserError: all checkpoints are damaged or gone, so that the run would begin anew.
        """
        damage: dict[int, DamagedCheckpoint] = {}
        noted = self._noted_step()
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, found = None, None
            try:
                restored = self.restore(state, step)
            except DamagedCheckpoint as error:
                found = error
            if hosts.largest(found is not None):  # on what to go on from, several processes agree
                folder = self._folder / str(step)
                damage[step] = found or DamagedCheckpoint(f"{folder} is damaged where another process reads it")
                continue
            assert restored is not None
            if noted is not None and noted > max(step, *damage, 0):
                self._note(f"the checkpoint of step {noted:,} is gone; going on from step {step:,}")
            for damaged, reason in damage.items():
                hosts.in_first(functools.partial(self._move_away, damaged), "damaged checkpoint moved")
                self._note(f"{reason}; it is now in {DAMAGED_FOLDER}, and the run goes on from step {step:,}")
            if damage:
                self._manager.reload()
            self._best.step = restored[1].best["step"] if restored[1].best else None
            return restored
        if damage or noted is not None:
            first = f"; {next(iter(damage.values()))}" if damage else ""
            raise UserError(
                f"{self._workdir} has no checkpoint left that can be read{first}; put {CHECKPOINTS_FOLDER}/ back from "
                "a copy, or give another --workdir to start from the beginning"
            )
        return None

    def _note(self, text: str) -> None:
        if hosts.is_first():
            print(f"note: {text}", file=sys.stderr)

    def _move_away(self, step: int) -> None:
        folder = self._workdir / DAMAGED_FOLDER
        folder.mkdir(exist_ok=True)
        names = (f"{step}{suffix}" for suffix in ("", *(f".{number}" for number in range(2, 1000))))
        target = next(folder / name for name in names if not (folder / name).exists())
        self._folder.joinpath(str(step)).rename(target)

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, Progress]:
        """The run as it was after ``step`` steps, with the arrays placed as those of ``state`` are.

        Raises:
            DamagedCheckpoint: it is not what was saved.
            UserError: it may not be read, or is of a run with another model.
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
            return state.replace(**arrays), Progress.from_json(fields)
        except jax.errors.JaxRuntimeError:  # another process has ended, or a device's memory is full
            raise
        except Exception as error:  # orbax and tensorstore each raise types of their own
            if _is_unreadable(error):
                raise UserError(
                    f"the checkpoint {self._folder / str(step)} cannot be read ({one_line(error)}); mend that, and the "
                    "same command goes on from there"
                ) from error
            raise self._damaged(step, error) from error

    def _check_fits(self, saved: dict[str, Any], step: int) -> None:
        """Refuses a state whose parameters are not those of the checkpoint, before orbax says so in its own words."""
        folder = self._manager.directory / str(step)
        try:
            with _quiet(), ocp.StandardCheckpointer() as checkpointer:
                there = checkpointer.metadata(folder / "state").item_metadata.tree["params"]
        except Exception:  # a damaged one: restoring it will say so
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
    """Whether that says nothing of what the files hold: they may not be opened, or no more files may."""
    while error.__cause__ and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (
        isinstance(error, PermissionError)
        or (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE))
        or "PERMISSION_DENIED" in str(error)  # tensorstore's
    )


def _checksum(arrays: Any, fields: dict[str, Any]) -> str:
    """Of every value that a checkpoint holds, so that a restored one is what was saved."""
    crc = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return f"{crc:08x}"


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's notes on folders that were meant to be as they are."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
