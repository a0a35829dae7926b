"""Training state, and its creation from a config together with the model and the image transform."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from flax.training import train_state
from ml_collections import ConfigDict

from jaxresnet.core.augment import STAGES, Stage, Transform, bind
from jaxresnet.core.model import BLOCKS, ResNet
from jaxresnet.core.optim import create_optimizer
from jaxresnet.extensions import find
from jaxresnet.kernels import convolution
from jaxresnet.system.errors import UserError


class TrainState(train_state.TrainState):
    """Flax's TrainState (step, params, opt_state, apply_fn, tx) with BatchNorm statistics, averages and a key.

    Attributes:
        batch_stats: running statistics of BatchNorm.
        rng: key of the run, which never changes. Step i uses ``fold_in(rng, i)``, so any step can be recomputed.
        averages: exponential moving averages of ``params`` and ``batch_stats``, or None without any.
        ema_decay: share of the averages that is kept at each step.
    """

    batch_stats: Any
    rng: jax.Array
    averages: Any = None
    ema_decay: float = flax.struct.field(pytree_node=False, default=0.0)

    @property
    def raw_variables(self) -> dict[str, Any]:
        """Variables that are trained."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def variables(self) -> dict[str, Any]:
        """Variables to score and to release: the averages, or those that are trained if there are none."""
        return self.raw_variables if self.averages is None else self.averages

    def with_variables(self, variables: dict[str, Any]) -> "TrainState":
        """Return the state with others in the place of ``variables``."""
        return self.replace(**variables) if self.averages is None else self.replace(averages=variables)

    def average(self) -> "TrainState":
        """Return the state with its averages moved towards the variables. They forget the first ones quickly."""
        if self.averages is None:
            return self
        decay = jnp.minimum(self.ema_decay, (1 + self.step) / (10 + self.step))
        move = functools.partial(jax.tree.map, lambda old, new: decay * old + (1 - decay) * new)
        return self.replace(averages=move(self.averages, self.raw_variables))


def create_model(config: ConfigDict) -> ResNet:
    """Create the model that ``config.model`` describes, computing in ``config.dtype``."""
    return model_from_fields({**config.model, "frozen": frozen_stages(config)}, config.dtype)


def frozen_stages(config: ConfigDict) -> tuple[str, ...]:
    """Return the stages that ``config.freeze`` names, from ``"stem"``, ``"layer1"`` and so on.

    Raises:
        UserError: there is no such stage.
    """
    stages = ("stem", *(f"layer{number}" for number in range(1, len(config.model.channels) + 1)))
    names = stages if config.freeze == "all-but-head" else [name for name in config.freeze.split(",") if name]
    if unknown := {*names} - {*stages}:
        known = f"all-but-head, or some of {','.join(stages)}"
        raise UserError(f"freeze={config.freeze!r}: there is no stage {min(unknown)!r}; expected {known}")
    return tuple(stage for stage in stages if stage in names)


def model_from_fields(model_config: Mapping[str, Any], dtype: str = "float32") -> ResNet:
    """Create the model that ``config.model``, or a plain dictionary of its fields, describes.

    Raises:
        UserError: a field is unknown.
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in dict(model_config).items()
    }
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(ResNet)}:
        raise UserError(f"model.{min(unknown)}: models have no such field")
    if re.fullmatch("[0-9]{1,4}", str(fields.get("pooling"))):  # configs hold a window as text
        fields["pooling"] = int(fields["pooling"])
    fields["block"] = find(BLOCKS, "model.block", fields.get("block", "basic"))
    return _model(
        **fields,
        dtype=jnp.dtype(dtype),
        conv_general_dilated=convolution.conv_general_dilated,
        relu=convolution.relu,
    )


# Equal fields give the same object, because jit compares ``apply_fn``, a bound method, by the identity of its module.
_model = functools.cache(ResNet)


def create_transform(config: ConfigDict, epoch: int = 0) -> Transform:
    """Create the image transform that ``config.augment`` describes for an epoch, counted from 0.

    Raises:
        UserError: images do not have 32x32 pixels, or are shrunk, but the model's linear layer fits only that size.
    """
    augment = config.augment
    if config.model.pooling != "global" and (augment.small_images or config.dataset.image_size != 32):
        raise UserError(
            f"model.pooling={config.model.pooling}: with a window, the linear layer fits images of 32x32 pixels only; "
            "give model.pooling=global with augment.small_images or dataset.image_size"
        )
    sides = (side for side, until in augment.small_images if epoch < round(until * config.num_epochs))
    own: list[Stage] = [find({}, "augment.stages", name) for name in augment.stages.split(",") if name]
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in augment.items()}
    fields["flip"] = augment.flip and not augment.alternating_flip  # Alternating ones come with the batches.
    fields |= {"label_smoothing": config.label_smoothing, "num_classes": config.model.num_classes}
    return Transform(bind([*STAGES, *own], fields), tuple(augment.mean), tuple(augment.std), next(sides, None))


class Rngs(NamedTuple):
    """Keys of a run's three independent streams of random numbers."""

    init: jax.Array
    step: jax.Array
    order: jax.Array


def split_seed(seed: int) -> Rngs:
    """Derive a run's keys from ``config.seed``."""
    return Rngs(*jax.random.split(jax.random.key(seed), 3))


def create_train_state(config: ConfigDict, image_shape: tuple[int, int, int]) -> TrainState:
    """Create the state before the first step, which depends only on the arguments.

    If configs have the same model and optimizer, their states share ``apply_fn`` and ``tx``, and so compiled programs.

    Args:
        config: run config (see ``configs/default.py``).
        image_shape: (height, width, channels).
    """
    # lazy_init draws the parameters without running the model, with programs that models share.
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = create_model(config).lazy_init(split_seed(config.seed).init, images, train=False)
    return begin_with(config, variables)


def begin_with(config: ConfigDict, variables: Mapping[str, Any]) -> TrainState:
    """Create the state before the first step from the given ``params`` and ``batch_stats``."""
    state = TrainState.create(
        apply_fn=create_model(config).apply,
        params=variables["params"],
        tx=create_optimizer(config.optimizer, frozen_stages(config)),
        batch_stats=variables["batch_stats"],
        rng=split_seed(config.seed).step,
    )
    state = state.replace(step=jnp.zeros((), jnp.int32))  # Flax starts with a Python number, a different type
    if config.ema_decay:  # Copies, because a step reuses the memory of every array of the state.
        state = state.replace(averages=jax.tree.map(jnp.copy, state.raw_variables), ema_decay=config.ema_decay)
    return state
