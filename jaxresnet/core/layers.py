"""Layers of a model, traced from the model itself: output shapes, parameters and costs."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxresnet.core.model import BatchNorm, ResNet, count_parameters


class Layer(NamedTuple):
    """One layer of a model.

    Attributes:
        path: path of the module, such as ``layer2_0/conv1``.
        kind: ``"conv"``, ``"norm"``, ``"pool"``, ``"dropout"`` or ``"linear"``.
        output_shape: shape of the output for one image.
        parameters: number of trainable parameters.
        multiply_adds: multiply-adds per image in the forward pass. As usual, only convolutions and linear layers count.
        output_bytes: size of the output for one image.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    output_bytes: int


_PARAMETER_BYTES = 4  # float32, whatever the compute dtype

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


def format_layers(layers: Sequence[Layer], dtype: str, batch_size: int) -> str:
    """Format a table with one line per layer and one of totals, followed by their cost and memory.

    Args:
        layers: layers of a model.
        dtype: compute dtype of the model.
        batch_size: batch size for which the memory of the outputs is given.
    """
    header = ("layer", "kind", "output", "parameters", "multiply-adds", "memory")
    rows = [
        (
            layer.path,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            _bytes(layer.output_bytes),
        )
        for layer in layers
    ]
    parameters, cost, memory = (
        sum(getattr(layer, field) for layer in layers) for field in ("parameters", "multiply_adds", "output_bytes")
    )
    totals = ("in all", "", "", f"{parameters:,}", f"{cost:,}", _bytes(memory))
    widths = [max(map(len, column)) for column in zip(header, *rows, totals, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_line(row, widths) for row in (header, *rows, totals)]
    return "\n".join(
        [
            *(lines[0], rule, *lines[1:-1], rule, lines[-1], ""),
            f"{parameters:,} parameters: {_bytes(_PARAMETER_BYTES * parameters)}",
            f"{cost / 1e6:,.0f}M multiply-adds per image in the forward pass, about three times as many in training",
            f"outputs of these layers in {dtype}: {_bytes(memory)} per image, "
            f"{_bytes(batch_size * memory)} per batch of {batch_size}",
        ]
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Format a row with its first three cells left-aligned and its numbers right-aligned."""
    pairs = list(zip(cells, widths, strict=True))
    return "  ".join(
        [f"{cell:<{width}}" for cell, width in pairs[:3]] + [f"{cell:>{width}}" for cell, width in pairs[3:]]
    )


def _bytes(number: int) -> str:
    """Format a number of bytes, such as 40 B, 1.4 KiB or 25.0 MiB."""
    size, units = float(number), ["KiB", "MiB", "GiB", "TiB"]
    if size < 1024:
        return f"{number} B"
    while size >= 1024 * 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size / 1024:.1f} {units[0]}"
