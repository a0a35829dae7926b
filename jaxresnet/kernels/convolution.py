"""Convolutions of the network. The devices of the ambient mesh determine how they are computed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxresnet.kernels import cpu, sharding
from jaxresnet.kernels.sharding import Images, Kernel


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Compute ``lax.conv_general_dilated`` for ``flax.linen.Conv``.

    On CPUs, use the algorithms of ``kernels.cpu``. On other devices, use XLA's. With a bfloat16 kernel, XLA
    would sum the kernel's gradient over several devices in bfloat16, so sum it in float32.
    """
    if sharding.platform() == "cpu":
        return cpu.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    if jax.sharding.get_abstract_mesh().size <= 1 or lhs.dtype != jnp.bfloat16:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)

    def forward(x: Images, kernel: Kernel) -> Images:
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)

    def backward(x: Images, kernel: Kernel, grad: Images, dtype: Any = lhs.dtype) -> tuple[Images, Kernel]:
        (dx,) = jax.linear_transpose(lambda x: forward(x, kernel), x)(grad)
        x, kernel, grad = (array.astype(dtype) for array in (x, kernel, grad))
        # Not preferred_element_type=float32: for that, GPUs convert all images to float32 first.
        (dkernel,) = jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(grad)
        return dx, dkernel.astype(jnp.float32)

    def backward_of_all(saved: tuple[Images, Kernel], grad: Images) -> tuple[Images, Kernel]:
        dx, dkernel = backward(*saved, grad, dtype=jnp.float32)
        return dx, dkernel.astype(rhs.dtype)

    if sharding.divides(len(lhs)):
        return sharding.convolution(forward, backward)(lhs, rhs)
    # The compiler pads a batch that does not divide, and sums its gradients in the type that they are computed in.
    convolve = jax.custom_vjp(forward)
    convolve.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward_of_all)
    return convolve(lhs, rhs)
