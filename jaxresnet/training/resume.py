"""Where a run begins: at its newest checkpoint, at imported weights, or before the first step."""

import pathlib

import jax.numpy as jnp

from jaxresnet.core.programs import replicate
from jaxresnet.core.state import TrainState
from jaxresnet.system.errors import UserError
from jaxresnet.training.task import Task
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.progress import Progress


def restore(task: Task, checkpointer: Checkpointer, workdir: pathlib.Path) -> tuple[TrainState, Progress]:
    """Return the state and progress of the newest checkpoint, or the initial ones if there is none.

    Raises:
        UserError: the run had other data, its checkpoints are damaged, or imported weights need no more epochs.
    """
    restored = checkpointer.restore_newest(task.first_state)
    if restored is None:
        return task.first_state, Progress(data_fingerprint=task.data_fingerprint)
    state, progress = restored
    if progress.data_fingerprint is None:
        return _begin_with_imported(task, state, progress, workdir)
    if progress.data_fingerprint != task.data_fingerprint:
        raise UserError(
            f"{workdir} holds a run on other data (checksum {progress.data_fingerprint}, now {task.data_fingerprint}); "
            "give another --workdir, or the data that this run was started with"
        )
    return state, progress


def _begin_with_imported(
    task: Task, state: TrainState, progress: Progress, workdir: pathlib.Path
) -> tuple[TrainState, Progress]:
    """Set the step of imported weights to the end of their epochs. The steps per epoch depend on the data."""
    if progress.epoch >= task.config.num_epochs:
        raise UserError(
            f"{workdir} holds weights imported after epoch {progress.epoch} of {task.config.num_epochs}, so nothing is "
            "left to train; score them with jaxresnet.evaluate, or import them again with another --epoch"
        )
    progress.data_fingerprint = task.data_fingerprint
    progress.first_step = progress.epoch * task.steps_per_epoch
    return state.replace(step=replicate(jnp.int32(progress.first_step), task.mesh)), progress
