"""What a training step reads and returns, and how it begins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.training import train_state
from ml_collections import ConfigDict

from jaxresnet import optim
from jaxresnet.augment import Transform
from jaxresnet.models import ResNet


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
    fields = config.model.to_dict()
    return ResNet(
        **{
            **fields,
            "channels": tuple(fields["channels"]),
            "blocks": tuple(fields["blocks"]),
            "pooling": "global" if fields["pooling"] == "global" else int(fields["pooling"]),
        },
        dtype=jnp.dtype(config.dtype),
    )


def create_transform(config: ConfigDict) -> Transform:
    """The image transform that ``config.augment`` describes."""
    augment = config.augment
    return Transform(augment.crop_padding, augment.flip, tuple(augment.mean), tuple(augment.std))


class Rngs(NamedTuple):
    """Keys of a run, for its three independent streams of random numbers."""

    init: jax.Array
    step: jax.Array
    order: jax.Array


def split_seed(seed: int) -> Rngs:
    """The keys that follow from ``config.seed``."""
    return Rngs(*jax.random.split(jax.random.key(seed), 3))


def create_train_state(config: ConfigDict, image_shape: tuple[int, int, int], steps_per_epoch: int) -> TrainState:
    """The state before the first step, a function of the config alone.

    Args:
        config: see ``configs/default.py``.
        image_shape: height, width, channels.
        steps_per_epoch: for schedules that count epochs.
    """
    model = create_model(config)
    rngs = split_seed(config.seed)

    def create() -> TrainState:
        variables = model.init(rngs.init, jnp.zeros((1, *image_shape)), train=False)
        learning_rate_fn = optim.create_learning_rate_fn(config.schedule, steps_per_epoch)
        return TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            tx=optim.create_optimizer(config.optimizer, learning_rate_fn),
            batch_stats=variables["batch_stats"],
            rng=rngs.step,
        )

    # jit, so that the unused forward pass of init is dropped instead of run.
    return jax.jit(create)()
