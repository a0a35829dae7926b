"""Results of a finished run."""

from typing import Any

from jaxresnet.config import eval_split_name
from jaxresnet.core.evaluation import evaluate
from jaxresnet.core.model import count_parameters
from jaxresnet.core.programs import Steps, put_on_devices
from jaxresnet.core.state import TrainState
from jaxresnet.data.cifar import CIFAR10
from jaxresnet.system import devices
from jaxresnet.system.errors import UserError
from jaxresnet.training.task import Task
from jaxresnet.workdir.checkpoint import Checkpointer, DamagedCheckpoint
from jaxresnet.workdir.progress import Progress


def summarise(
    task: Task, state: TrainState, progress: Progress, checkpointer: Checkpointer, eval_steps: Steps
) -> dict[str, Any]:
    """Return the summary of a run that has finished its last epoch.

    If the best epoch was selected on held-out training images, it is restored and scored on the test set.

    Raises:
        UserError: the checkpoint of the best epoch is needed and damaged.
    """
    config, split = task.config, eval_split_name(task.config)
    assert progress.best is not None  # Every evaluation sets it.
    epochs_here = config.num_epochs - progress.first_step // task.steps_per_epoch
    summary = {
        "best": progress.best | {"selected_on": split},
        "last": progress.last_scores(split),
        "evaluated_on": split,
        "paper_accuracy": config.paper.accuracy if progress.data_fingerprint == CIFAR10.fingerprint else None,
        "parameters": count_parameters(state.params),
        "wall_seconds": progress.train_seconds + progress.eval_seconds,
        "train_seconds": progress.train_seconds,
        "images_per_second": epochs_here * len(task.train_split) / progress.train_seconds,
        "data_fingerprint": progress.data_fingerprint,
        **devices.describe(),
    }
    if split != "test":
        best_state = _restore_best(checkpointer, state, progress.best["step"])
        data, size = put_on_devices(task.test_split.images, task.test_split.labels, task.mesh), len(task.test_split)
        scores = evaluate(eval_steps, best_state, data, size, config.eval_batch_size)
        summary["test"] = {"epoch": progress.best["epoch"], **scores.sums.means("test")}
    return summary


def _restore_best(checkpointer: Checkpointer, state: TrainState, step: int) -> TrainState:
    try:
        return checkpointer.restore(state, step)[0]
    except DamagedCheckpoint as error:
        raise UserError(
            f"{error}, but the best epoch's test score needs it; restore it from a copy, or score the last one: "
            "jaxresnet.evaluate --checkpoint=last"
        ) from error
