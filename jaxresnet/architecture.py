"""What a model consists of, read off the model itself: its layers, their output shapes, parameters and costs."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxresnet.models import BatchNorm, ResNet, count_parameters


class Layer(NamedTuple):
    """One layer.

    Attributes:
        path: of the module, such as ``layer2_0/conv1``.
        kind: ``"conv"``, ``"norm"``, ``"dropout"`` or ``"linear"``.
        output_shape: of one image.
        parameters: trainable ones.
        multiply_adds: of one image in the forward pass; those of convolutions and linear layers, as is usual.
        output_bytes: of one image.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    output_bytes: int


_KINDS = {nn.Conv: "conv", BatchNorm: "norm", nn.Dropout: "dropout", nn.Dense: "linear"}


def describe_layers(model: ResNet, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers in the order in which an image passes them. Nothing is computed: the model is only traced."""
    layers = []

    def record(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        output = call(*arguments, **keywords)
        kind = _KINDS.get(type(context.module))
        if kind and context.method_name == "__call__":
            params = context.module.variables.get("params", {})
            # Every weight is used once for each position of the output; biases are added, not multiplied.
            weights = params["kernel"].size if "kernel" in params else 0
            layers.append(
                Layer(
                    path="/".join(context.module.path),
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
    """Multiply-adds of one image in the forward pass. A training step takes about three times as many."""
    return sum(layer.multiply_adds for layer in describe_layers(model, image_shape))
