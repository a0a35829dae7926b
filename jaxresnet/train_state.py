"""What a training step reads and returns, and how it begins."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.training import train_state
from ml_collections import ConfigDict

from jaxresnet.augment import Transform
from jaxresnet.errors import UserError
from jaxresnet.models import ResNet
from jaxresnet.optim import create_optimizer


class TrainState(train_state.TrainState):
    """Flax's TrainState (step, params, opt_state, apply_fn, tx) with what else a step needs.

    Attributes:
        batch_stats: BatchNorm's running statistics.
        rng: the run's key. It never changes: the key of step i is ``fold_in(rng, i)``, so any step can be recomputed.
    """

    batch_stats: Any
    rng: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """What ``apply_fn`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_model(config: ConfigDict) -> ResNet:
    """The model that ``config.model`` describes, computing in ``config.dtype``."""
    return model_from_fields(config.model, config.dtype)


def model_from_fields(model_config: Mapping[str, Any], dtype: str = "float32") -> ResNet:
    """The model that a config's ``model`` describes; a plain dictionary of these fields will do.

    Raises:
        UserError: a field that models do not have.
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in dict(model_config).items()
    }
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(ResNet)}:
        raise UserError(f"model.{min(unknown)}: models have no such field")
    if str(fields.get("pooling")).isdecimal():  # configs hold it as text; what is no number is left to the model
        fields["pooling"] = int(fields["pooling"])
    return _model(
        **fields,
        dtype=jnp.dtype(dtype),
    )


# The same object for equal fields: jit compares a state's ``apply_fn``, a bound method, by the identity of its module.
_model = functools.cache(ResNet)


def create_transform(config: ConfigDict, epoch: int = 0) -> Transform:
    """The image transform that ``config.augment`` describes for an epoch, counted from 0.

    Raises:
        UserError: smaller images for a model whose linear layer suits one size alone.
    """
    augment = config.augment
    if augment.small_images and config.model.pooling != "global":
        raise UserError(
            f"augment.small_images={augment.small_images}: needs model.pooling='global', because behind a window of "
            f"{config.model.pooling} the linear layer fits one size of images alone"
        )
    sides = (side for side, until in augment.small_images if epoch < round(until * config.num_epochs))
    return Transform(augment.crop_padding, augment.flip, tuple(augment.mean), tuple(augment.std), next(sides, None))


class Rngs(NamedTuple):
    """Keys of a run, for its three independent streams of random numbers."""

    init: jax.Array
    step: jax.Array
    order: jax.Array


def split_seed(seed: int) -> Rngs:
    """The keys that follow from ``config.seed``."""
    return Rngs(*jax.random.split(jax.random.key(seed), 3))


def create_train_state(config: ConfigDict, image_shape: tuple[int, int, int]) -> TrainState:
    """The state before the first step, a function of the config alone.

    States of configs with the same model and optimizer share ``apply_fn`` and ``tx``, and so their compiled programs.

    Args:
        config: see ``configs/default.py``.
        image_shape: height, width, channels.
    """
    # lazy_init draws the parameters without running the model, by programs that models share.
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return begin_with(config, create_model(config).lazy_init(split_seed(config.seed).init, images, train=False))


def begin_with(config: ConfigDict, variables: Mapping[str, Any]) -> TrainState:
    """The state before the first step of a run whose ``params`` and ``batch_stats`` are given."""
    state = TrainState.create(
        apply_fn=create_model(config).apply,
        params=variables["params"],
        tx=create_optimizer(config.optimizer),
        batch_stats=variables["batch_stats"],
        rng=split_seed(config.seed).step,
    )
    return state.replace(step=jnp.zeros((), jnp.int32))  # Flax begins with a Python number, which is another type
