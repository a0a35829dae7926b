"""Fixed inputs of a run. They follow from its config and data."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxresnet.core.programs import create_mesh, replicate
from jaxresnet.core.schedules import Hyperparams, create_hyperparams_fn
from jaxresnet.core.state import TrainState, create_train_state, create_transform
from jaxresnet.core.steps import create_loss
from jaxresnet.data.loading import Dataset, Split, hold_out
from jaxresnet.system.errors import UserError


class Task(NamedTuple):
    """Fixed inputs of a run.

    Attributes:
        config: config of the run.
        train_split: images to train on.
        eval_split: images to score after an epoch: held-out training images, or the test split.
        test_split: test split.
        class_names: one name per class.
        data_fingerprint: checksum of all images and labels.
        steps_per_epoch: steps per epoch, the smaller last one included.
        hyperparams_fn: function from steps to their learning rates and momenta.
        mesh: mesh of all devices.
        first_state: state before the first step.
    """

    config: ConfigDict
    train_split: Split
    eval_split: Split
    test_split: Split
    class_names: tuple[str, ...]
    data_fingerprint: str
    steps_per_epoch: int
    hyperparams_fn: Callable[[np.typing.ArrayLike], Hyperparams]
    mesh: Mesh
    first_state: TrainState


def create_task(config: ConfigDict, dataset: Dataset) -> Task:
    """Create the inputs of a run.

    Raises:
        UserError: config and data do not fit each other.
    """
    train_split, eval_split = dataset.train, dataset.test
    if config.dataset.validation_size:
        train_split, eval_split = hold_out(dataset.train, config.dataset.validation_size)
    if config.batch_size > len(train_split):
        raise UserError(
            f"batch_size={config.batch_size} is larger than the {len(train_split):,} training images; reduce it"
        )
    steps_per_epoch, mesh = -(-len(train_split) // config.batch_size), create_mesh()
    # Both raise UserError if the config is mistaken.
    create_loss(config)
    jax.eval_shape(create_transform(config).train, jax.random.key(0), train_split.images[:1], train_split.labels[:1])
    return Task(
        config=config,
        train_split=train_split,
        eval_split=eval_split,
        test_split=dataset.test,
        class_names=dataset.class_names,
        data_fingerprint=dataset.fingerprint(),
        steps_per_epoch=steps_per_epoch,
        hyperparams_fn=create_hyperparams_fn(config, steps_per_epoch),
        mesh=mesh,
        first_state=replicate(create_train_state(config, dataset.train.images.shape[1:]), mesh),
    )
