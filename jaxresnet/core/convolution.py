"""Convolutions of the network. The devices of the ambient mesh determine how they are computed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxresnet.core import cpu_convolution, data_parallel
from jaxresnet.core.data_parallel import Images, Kernel


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Compute ``lax.conv_general_dilated`` for ``flax.linen.Conv``.

    On CPUs, the algorithms of ``core.cpu_convolution`` apply. Elsewhere XLA's do. Of a bfloat16 kernel, XLA would also
    sum the devices' gradients in bfloat16. Here they are summed in float32.
    """
    if data_parallel.platform() == "cpu":
        return cpu_convolution.conv_general_dilated(lhs, rhs, window_strides, padding, **options)

    def forward(x: Images, kernel: Kernel) -> Images:
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)

    def backward(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
        dx, dkernel = jax.vjp(forward, x, kernel)[1](grad)
        # Not preferred_element_type=float32: for that, GPUs convert all images to float32 first.
        return dx, dkernel.astype(jnp.float32)

    if jax.sharding.get_abstract_mesh().size <= 1 or lhs.dtype != jnp.bfloat16:
        return forward(lhs, rhs)
    if data_parallel.divides(len(lhs)):
        return data_parallel.convolution(forward, backward)(lhs, rhs)
    # The compiler pads batches that do not divide, an epoch's last at most. It would sum in the type of the kernel.
    return forward(lhs.astype(jnp.float32), rhs.astype(jnp.float32)).astype(lhs.dtype)
