"""Costs of a model and of its training: layers, parameters, multiply-adds, and operations by epoch."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxresnet.core.model import BatchNorm, ResNet, count_parameters
from jaxresnet.core.state import create_model, create_transform


class Layer(NamedTuple):
    """One layer of a model."""

    path: str  # path of the module, such as ``layer2_0/conv1``
    kind: str  # ``"conv"``, ``"norm"``, ``"pool"``, ``"dropout"`` or ``"linear"``
    output_shape: tuple[int, ...]  # for one image
    parameters: int  # trainable ones
    multiply_adds: int  # per image in the forward pass; as usual, only convolutions and linear layers count
    output_bytes: int  # for one image


_KINDS = {
    (nn.Conv, "__call__"): "conv",
    (BatchNorm, "__call__"): "norm",
    (ResNet, "_pool"): "pool",
    (nn.Dropout, "__call__"): "dropout",
    (nn.Dense, "__call__"): "linear",
}


def describe_layers(model: ResNet, image_shape: tuple[int, int, int]) -> list[Layer]:
    """List the layers in the order in which an image passes them. The model is only traced, not run."""
    layers = []

    def record(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        output = call(*arguments, **keywords)
        kind = _KINDS.get((type(context.module), context.method_name))
        if kind == "dropout" and context.module.rate == 0:
            kind = None
        if kind:
            # Pooling is a method of the whole network, so the module's parameters are not those of the pooling.
            params = {} if kind == "pool" else context.module.variables.get("params", {})
            # Every weight is used once per output position. Biases are added, not multiplied.
            weights = params["kernel"].size if "kernel" in params else 0
            layers.append(
                Layer(
                    path="/".join(context.module.path) or kind,
                    kind=kind,
                    output_shape=output.shape[1:],
                    parameters=count_parameters(params),
                    multiply_adds=weights * math.prod(output.shape[1:-1]),
                    output_bytes=math.prod(output.shape[1:]) * output.dtype.itemsize,
                )
            )
        return output

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))
    return layers


@functools.cache
def multiply_adds(model: ResNet, image_shape: tuple[int, int, int]) -> int:
    """Count the multiply-adds per image in the forward pass. A training step takes about three times as many."""
    return sum(layer.multiply_adds for layer in describe_layers(model, image_shape))


def flop_by_epoch(config: ConfigDict, image_shape: tuple[int, int, int]) -> Float[np.ndarray, " epochs"]:
    """Count the floating-point operations per training image in each epoch, a measure of the work of a run.

    A multiply-add is two operations. Backward takes twice as many as forward. Smaller images take fewer.
    """
    # Dropout has no multiply-adds. Without it, models that differ in its rate share their count in the cache.
    model, (height, width, channels) = create_model(config).clone(dropout_rate=0.0), image_shape
    sides = [create_transform(config, epoch).side for epoch in range(config.num_epochs)]
    return np.array([6.0 * multiply_adds(model, (side or height, side or width, channels)) for side in sides])


def flop_until(
    config: ConfigDict, image_shape: tuple[int, int, int], epochs: Float[np.ndarray, " times"]
) -> Float[np.ndarray, " times"]:
    """Count the operations per training image from the start to each time, given in fractional epochs."""
    ends = np.concatenate([[0.0], np.cumsum(flop_by_epoch(config, image_shape))])
    return np.interp(epochs, np.arange(len(ends)), ends)
