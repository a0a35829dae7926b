"""Convolutions of the network, with the results of ``lax.conv_general_dilated``, and faster on CPUs.

XLA:CPU computes convolutions, and above all their gradients, at a fraction of the speed of its matrix products. So this
module computes them as matrix products. 3x3 convolutions at stride 1 use Winograd's F(2x2, 3x3) (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2015), with 16 multiplications for 4 outputs instead of 36. 3x3 and 1x1
convolutions at stride 2 use patches. The 3x3 algorithms process a few images at a time, so that intermediate results
stay in the cache. Convolutions to few features still use XLA, in a form that it computes faster, and XLA computes the
gradients of kernels for a few images at a time. ``docs/performance.md`` has the measurements.

Layouts: images (batch, height, width, channels), kernels (height, width, in, out).
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxresnet.kernels import bfloat16, sharding, winograd
from jaxresnet.kernels.sharding import Images, Kernel, convolution, on_each_device
from jaxresnet.kernels.winograd import interleave, transpose

# Smallest inputs these algorithms handle. No gain was measured for smaller float32 images.
MIN_PIXELS = 8 * 8
FEW, SOME, MANY = range(1, 32), range(16, sys.maxsize), range(32, sys.maxsize)  # numbers of channels or features
MANY_EVEN = range(32, sys.maxsize, 2)  # bfloat16 channels are copied in pairs

# Input values processed at a time. With their transforms they about fill a core's cache. Chosen by measurement.
CHUNK_VALUES = 2**17

# Images whose kernel gradient XLA computes at a time. On a core with AVX2, 8 at a time were 2 to 4 times faster than
# all of 64 images of 32x32, and 7 to 10 times faster than all of 128.
IMAGES_PER_PART = 8


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Compute ``lax.conv_general_dilated`` for ``flax.linen.Conv``, with this module's algorithms where faster.

    They apply on CPU, in float32 or bfloat16, without dilation or groups, to the kernels, strides and paddings of this
    project's networks. Height and width must be even, except in bfloat16 at stride 1. Everything else uses XLA, on CPU
    in float32 with the kernel's gradient in parts. Each device of ``jax.sharding.get_abstract_mesh()`` computes its
    share of the batch.
    """
    dilated = any(factor != 1 for name in ("lhs_dilation", "rhs_dilation") for factor in options.get(name) or ())
    if not dilated and options.get("feature_group_count", 1) == 1 and is_served(lhs) and rhs.dtype == lhs.dtype:
        algorithms = _ALGORITHMS_BFLOAT16 if lhs.dtype == jnp.bfloat16 else _ALGORITHMS
        kind = (rhs.shape[:2], tuple(window_strides), tuple(map(tuple, padding)))
        for algorithm, channels in algorithms.get(kind, ()):
            whole_strides = is_even(lhs) or tuple(window_strides) == (1, 1)
            if whole_strides and all(size in channels for size in rhs.shape[2:]):
                return algorithm(lhs, rhs)
    if sharding.platform() == "cpu" and lhs.dtype == rhs.dtype == jnp.float32 and sharding.divides(len(lhs)):
        return in_parts(lambda x, kernel: lax.conv_general_dilated(x, kernel, window_strides, padding, **options))(
            lhs, rhs
        )
    return sharding.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def is_served(images: jax.Array) -> bool:
    """Return True if this module's algorithms support ``images`` on the ambient mesh's devices."""
    batch, height, width, channels = images.shape
    fits = {
        "float32": height * width >= MIN_PIXELS and is_even(images),
        "bfloat16": channels >= MANY.start,
    }
    fits_here = sharding.platform() == "cpu" and sharding.divides(batch)
    return fits_here and fits.get(images.dtype.name, False)


def is_even(images: jax.Array) -> bool:
    """Return True if height and width are even."""
    return images.shape[1] % 2 == images.shape[2] % 2 == 0


def relu(images: Images) -> Images:
    """Compute ``jax.nn.relu``, as a separate array if ``is_served(images)``.

    Otherwise XLA:CPU recomputes a residual block's input from all earlier blocks at every use.
    """
    if not is_served(images):
        return jax.nn.relu(images)
    if images.shape[3] in FEW:
        return _relu_in_a_loop(images)
    return lax.optimization_barrier(jax.nn.relu(images))  # A barrier suffices if the algorithms are loops.


@jax.custom_vjp
def _relu_in_a_loop(images: Images) -> Images:
    """Compute ``jax.nn.relu`` in a loop, because XLA:CPU does not fuse loops with other operations."""
    return on_each_device(functools.partial(_by_chunks, jax.nn.relu))(images)


def _relu_forward(images: Images) -> tuple[Images, Images]:
    output = _relu_in_a_loop(images)
    return output, output


_relu_in_a_loop.defvjp(_relu_forward, lambda output, grad: (jnp.where(output > 0, grad, 0),))


# 3x3, stride 1, padding 1: see winograd.py. Patches reach 41 GFLOP/s for the weight gradient at 32x32, and Winograd 46.


def _winograd(x: Images, kernel: Kernel) -> Images:
    u = winograd.transform_kernel(kernel)
    return _by_chunks(lambda part: winograd.convolve(part, u), x)


def _winograd_gradients(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
    # The input gradient is the output gradient convolved with the kernel, rotated by 180 degrees and transposed.
    u = winograd.rotate(winograd.transform_kernel(kernel))

    def accumulate(totals: list[jax.Array], parts: tuple[Images, Images]) -> tuple[list[jax.Array], Images]:
        x_part, grad_part = parts
        products = (g @ v for g, v in zip(winograd.grad_tiles(grad_part), winograd.input_tiles(x_part), strict=True))
        return [total + du for total, du in zip(totals, products, strict=True)], winograd.convolve(grad_part, u)

    shape = kernel.shape[:1:-1]  # (features, channels)
    du, dx = lax.scan(accumulate, [jnp.zeros(shape, x.dtype)] * 16, (_chunks(x, x), _chunks(grad, x)))
    return dx.reshape(x.shape), winograd.kernel_gradient(du)


winograd_3x3 = convolution(_winograd, _winograd_gradients)


# 3x3, stride 2, padding 1: the nine pixels that an output needs, side by side, times the kernel as a matrix.


def _strided(x: Images, kernel: Kernel) -> Images:
    matrix = kernel.reshape(-1, kernel.shape[3])
    return _by_chunks(lambda part: _patches(part) @ matrix, x)


def _strided_gradients(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
    channels, features = kernel.shape[2:]
    matrix = kernel.reshape(-1, features)

    def accumulate(total: jax.Array, parts: tuple[Images, Images]) -> tuple[jax.Array, Images]:
        x_part, grad_part = parts
        patches, flat = _patches(x_part).reshape(-1, len(matrix)), grad_part.reshape(-1, features)
        return total + transpose(flat) @ patches, _sum_patches(
            (grad_part @ matrix.T).reshape(*grad_part.shape[:3], 3, 3, channels)
        )

    zeros = jnp.zeros(matrix.shape[::-1], x.dtype)
    dkernel, dx = lax.scan(accumulate, zeros, (_chunks(x, x), _chunks(grad, x)))
    return dx.reshape(x.shape), dkernel.T.reshape(kernel.shape)


def _patches(x: Images) -> Float[Array, "batch h w values"]:
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate(
        [padded[:, i : i + height - 1 : 2, j : j + width - 1 : 2] for i in range(3) for j in range(3)], axis=-1
    )


def _sum_patches(patches: Float[Array, "batch h w 3 3 channels"]) -> Images:
    """Sum patches into images, the transpose of ``_patches``. Odd rows and columns lie in two patches, even in one."""

    def next_row(x: jax.Array) -> jax.Array:
        return jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))

    def next_column(x: jax.Array) -> jax.Array:
        return jnp.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))

    p = [[patches[:, :, :, i, j] for j in range(3)] for i in range(3)]
    even = [p[1][1], next_column(p[1][0]) + p[1][2]]
    odd = [next_row(p[0][1]) + p[2][1], next_row(next_column(p[0][0]) + p[0][2]) + next_column(p[2][0]) + p[2][2]]
    return interleave([even, odd])


strided = convolution(_strided, _strided_gradients)


# 3x3, stride 1, padding 1, in bfloat16: see bfloat16.py.


def _rows(x: Images, kernel: Kernel) -> Images:
    parts = _chunks(bfloat16.pack(x), x)
    y = lax.map(lambda part: bfloat16.convolve(part, kernel), parts)
    return bfloat16.unpack(y).reshape(*x.shape[:3], -1)


def _rows_gradients(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
    pack, unpack = bfloat16.pack, bfloat16.unpack
    channels, features = kernel.shape[2:]

    def accumulate(total: jax.Array, parts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_part, grad_part = parts
        transposed = transpose(unpack(x_part).reshape(-1, channels))
        dkernel, dx = bfloat16.gradients(transposed, grad_part, kernel)
        return total + dkernel, dx

    zeros = jnp.zeros((3, channels, 3 * features), jnp.float32)
    dkernel, dx = lax.scan(accumulate, zeros, (_chunks(pack(x), x), _chunks(pack(grad), x)))
    return unpack(dx).reshape(x.shape), bfloat16.kernel_gradient(dkernel)


rows = convolution(_rows, _rows_gradients)


# 1x1, stride 2: a product with every other pixel.


def _pointwise_strided(x: Images, kernel: Kernel) -> Images:
    return x[:, ::2, ::2] @ kernel[0, 0]


def _pointwise_strided_gradients(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
    dx = grad @ kernel[0, 0].T
    zeros = jnp.zeros_like(dx)
    channels, features = kernel.shape[2:]
    dkernel = transpose(grad.reshape(-1, features)) @ x[:, ::2, ::2].reshape(-1, channels)
    return interleave([[dx, zeros], [zeros, zeros]]), dkernel.T[None, None]


pointwise_strided = convolution(_pointwise_strided, _pointwise_strided_gradients)

# 3x3, stride 1, padding 1, few features: XLA is faster if it computes two neighbouring pixels as twice the features.


def _paired(x: Images, kernel: Kernel) -> Images:
    """Convolve at horizontal stride 2 with two shifted copies of the kernel, one for each pixel of a pair."""
    left, right = (jnp.pad(kernel, ((0, 0), (shift, 1 - shift), (0, 0), (0, 0))) for shift in (0, 1))
    return _xla(x, jnp.concatenate([left, right], axis=3), (1, 2)).reshape(*x.shape[:3], -1)


def _paired_gradients(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
    dx = _paired(grad, kernel[::-1, ::-1].swapaxes(2, 3))
    return dx, _kernel_gradient(functools.partial(_xla, strides=(1, 1)), x, kernel, grad)


def _xla(x: Images, kernel: Kernel, strides: tuple[int, int]) -> Images:
    return lax.conv_general_dilated(x, kernel, strides, ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


paired = convolution(_paired, _paired_gradients)


# All others: XLA's, with the gradient of the kernel summed over parts of the batch.


def in_parts(convolve: Callable[[Images, Kernel], Images]) -> Callable[[Images, Kernel], Images]:
    """Return ``convolve``, one of XLA's convolutions, with the gradients that ``_kernel_gradient`` computes."""

    def gradients(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
        (dx,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(grad)
        return dx, _kernel_gradient(convolve, x, kernel, grad)

    return convolution(convolve, gradients)


def _kernel_gradient(convolve: Callable[[Images, Kernel], Images], x: Images, kernel: Kernel, grad: Images) -> Kernel:
    """Sum the gradient over ``IMAGES_PER_PART`` images at a time.

    XLA:CPU reads the whole of ``grad`` for every few rows of this product, so ``grad`` has to fit in the cache. The
    parts are not a loop, because in a loop XLA:CPU is 20 times slower.
    """

    def of_part(x: Images, grad: Images) -> Kernel:
        return jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(grad)[0]

    parts = [slice(start, start + IMAGES_PER_PART) for start in range(0, len(x), IMAGES_PER_PART)]
    return functools.reduce(jnp.add, [of_part(x[part], grad[part]) for part in parts])


# Algorithms by (kernel size, strides, padding), each with the numbers of channels and of features that it supports.
Algorithms = dict[tuple[Any, ...], tuple[tuple[Callable[[Images, Kernel], Images], range], ...]]
_ALGORITHMS: Algorithms = {
    ((3, 3), (1, 1), ((1, 1), (1, 1))): ((paired, FEW), (winograd_3x3, MANY)),
    ((3, 3), (2, 2), ((1, 1), (1, 1))): ((strided, SOME),),
    ((1, 1), (2, 2), ((0, 0), (0, 0))): ((pointwise_strided, SOME),),
}


def _in_float32(algorithm: Callable[[Images, Kernel], Images]) -> Callable[[Images, Kernel], Images]:
    """Adapt a float32 algorithm to bfloat16, for the few convolutions that take little time."""

    def convolve(x: Images, kernel: Kernel) -> Images:
        return algorithm(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(x.dtype)

    return convolve


_ALGORITHMS_BFLOAT16: Algorithms = {
    ((3, 3), (1, 1), ((1, 1), (1, 1))): ((rows, MANY_EVEN),),
    ((3, 3), (2, 2), ((1, 1), (1, 1))): ((_in_float32(strided), MANY),),
    ((1, 1), (2, 2), ((0, 0), (0, 0))): ((_in_float32(pointwise_strided), MANY),),
}


def _chunks(array: jax.Array, sized_by: Images) -> jax.Array:
    """Divide the batch into equal chunks, each at most CHUNK_VALUES values of ``sized_by`` or one image.

    In bfloat16 half as many were faster, because nine copies of each value are processed, not four.
    """
    values = CHUNK_VALUES // 2 if sized_by.dtype == jnp.bfloat16 else CHUNK_VALUES
    batch, most = len(array), max(values // (sized_by.size // len(sized_by)), 1)
    size = max(size for size in range(1, min(most, batch) + 1) if batch % size == 0)
    return array.reshape(batch // size, size, *array.shape[1:])


def _by_chunks(function: Callable[[Images], Images], x: Images) -> Images:
    y = lax.map(function, _chunks(x, x))
    return y.reshape(len(x), *y.shape[2:])
