"""Saving and restoring runs with orbax."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from jaxresnet.errors import Diverged, UserError, one_line
from jaxresnet.metrics import Sums
from jaxresnet.train_state import TrainState

CHECKPOINTS_FOLDER = "checkpoints"

# What is saved of a TrainState. The rest of it follows from the config.
_SAVED = ("step", "params", "batch_stats", "opt_state")


@dataclasses.dataclass
class Progress:
    """What a resumed run needs beside its TrainState, all of it JSON.

    Attributes:
        epoch: the one running, from 0.
        sums: of the training metrics of that epoch's steps so far.
        best: ``epoch`` (from 1), ``step``, ``loss`` and ``accuracy`` (%) of the best epoch yet.
        train_seconds: spent in the training steps of the epochs before, compilation included.
        eval_seconds: likewise in their evaluation.
        confusion: the confusion matrix of the last evaluation.
        data_fingerprint: of the data set that the run reads; None where weights were imported and no data were read
            yet, so that it is not known how many steps the epochs before took.
        first_step: that this run itself takes; not 0 where imported weights have epochs behind them.
    """

    data_fingerprint: str | None
    first_step: int = 0
    epoch: int = 0
    sums: Sums = dataclasses.field(default_factory=Sums)
    best: dict[str, Any] | None = None
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    confusion: list[list[int]] | None = None


class Checkpointer:
    """The checkpoints of a workdir: the latest few and the best."""

    def __init__(self, workdir: pathlib.Path, keep: int = 1, read_only: bool = False):
        """Opens ``workdir``/checkpoints.

        Args:
            workdir: of the run.
            keep: how many of the latest to keep; the best is kept beside them.
            read_only: never to create or delete anything.
        """
        with _quiet():
            self._manager = ocp.CheckpointManager(
                (workdir / CHECKPOINTS_FOLDER).absolute(),  # orbax accepts no other
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy(
                        [
                            LatestN(keep),
                            BestN(
                                get_metric_fn=lambda metrics: metrics["accuracy"],
                                n=1,
                                keep_checkpoints_without_metrics=False,
                            ),
                        ]
                    ),
                    # On CPU a saved array can share memory with the state, which the next step overwrites.
                    enable_async_checkpointing=jax.default_backend() != "cpu",
                    cleanup_tmp_directories=not read_only,
                    create=not read_only,
                    read_only=read_only,
                ),
            )

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: Progress, best: bool = False) -> None:
        """Saves under the number of steps taken; ``best`` marks the best epoch yet.

        Raises:
            Diverged: a parameter or statistic is NaN or infinite; what was saved before stays.
        """
        saved = {name: getattr(state, name) for name in _SAVED}
        if not _all_finite(saved):
            raise Diverged(
                f"parameters became NaN or infinite at step {int(state.step):,}: "
                f"{self.last_good()}; start a new --workdir with a lower schedule.learning_rate"
            )
        step = int(state.step)
        if step in self._manager.all_steps():
            # Stopped while an epoch was being evaluated; now it has been, and the same step is saved with the outcome.
            self._manager.wait_until_finished()
            self._manager.delete(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(saved), progress=ocp.args.JsonSave(dataclasses.asdict(progress))
            ),
            # Only a new best carries a metric, so that among equals the first stays the best.
            metrics={"accuracy": progress.best["accuracy"]} if best and progress.best else None,
        )

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
            return _progress_from_json(restored["progress"])
        except Exception as error:  # orbax raises types of its own
            raise self._damaged(step, error) from error

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, Progress]:
        """The run as it was after ``step`` steps, with the arrays placed as those of ``state`` are.

        Raises:
            UserError: the checkpoint is damaged.
        """
        saved = {name: getattr(state, name) for name in _SAVED}
        self._check_fits(saved, step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
            return state.replace(**restored["state"]), _progress_from_json(restored["progress"])
        except Exception as error:  # orbax and tensorstore each raise types of their own
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

    def _damaged(self, step: int, error: Exception) -> UserError:
        return UserError(
            f"the checkpoint {self._manager.directory / str(step)} cannot be read ({one_line(error)}); move it away to "
            "go on from the one before"
        )


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


def _progress_from_json(fields: dict[str, Any]) -> Progress:
    return Progress(**{**fields, "sums": Sums(**fields["sums"])})


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
