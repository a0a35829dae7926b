"""3x3 convolutions of bfloat16 images on CPUs, at stride 1 and padding 1, as matrix products.

Recent processors have units that multiply bfloat16 matrices, with float32 sums, several times as fast as float32 ones
(AMX, AVX512-BF16). XLA:CPU uses them for bfloat16 products with a float32 result, but not for convolutions. Here each
row of a 3x3 kernel becomes one product. Its left matrix holds the three pixels that the row reads, side by side. The
three products are summed in float32.

XLA:CPU copies two-byte values at a third of the speed of four-byte ones, and updates them more slowly still. So
``pack`` turns each pair of channels into one uint32, and everything but the products works on these.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, BFloat16, Float32, UInt32

from jaxresnet.kernels.sharding import Images, Kernel

Packed = UInt32[Array, "batch height width pairs"]


def pack(images: Images) -> Packed:
    """Return the images with each pair of channels as one integer. The number of channels must be even."""
    pairs = images.reshape(*images.shape[:-1], -1, 2)
    return lax.bitcast_convert_type(pairs, jnp.uint32)


def unpack(packed: Packed) -> Images:
    """Invert ``pack``."""
    pairs = lax.bitcast_convert_type(packed, jnp.bfloat16)
    return pairs.reshape(*packed.shape[:-1], -1)


def convolve(packed: Packed, kernel: Kernel) -> Packed:
    """Convolve packed images and return the result packed."""
    return _sum_products(_neighbours(packed), kernel, packed.shape)


def gradients(
    x_transposed: BFloat16[Array, "channels pixels"], grad: Packed, kernel: Kernel
) -> tuple[Float32[Array, "3 channels values"], Packed]:
    """Compute the gradients of kernel and input from the same neighbours of the output gradient.

    Args:
        x_transposed: input, with one row per channel.
        grad: output gradient, packed.
        kernel: kernel of the convolution.

    Returns:
        The kernel gradient, for ``kernel_gradient`` after any sum over batches, and the input gradient, packed.
    """
    neighbours = _neighbours(grad)
    dkernel = jnp.stack([_product(x_transposed, row) for row in neighbours])
    # The input gradient is the output gradient convolved with the kernel, rotated by 180 degrees and transposed.
    return dkernel, _sum_products(neighbours, kernel[::-1, ::-1].swapaxes(2, 3), grad.shape)


def kernel_gradient(sums: Float32[Array, "3 channels values"]) -> Float32[Array, "3 3 channels features"]:
    """Rearrange the kernel gradient of ``gradients`` to the kernel's layout."""
    height, channels, values = sums.shape
    return sums.reshape(height, channels, 3, values // 3).swapaxes(1, 2)[::-1, ::-1]


def _neighbours(packed: Packed) -> list[BFloat16[Array, "pixels values"]]:
    """Return a matrix for each kernel row. Each of its rows holds the three pixels that the kernel row reads."""
    height, width = packed.shape[1:3]
    # The barriers make each copy a separate loop. Otherwise XLA:CPU fuses them into one several times as slow.
    padded = lax.optimization_barrier(jnp.pad(packed, ((0, 0), (1, 1), (1, 1), (0, 0))))
    triples = jnp.concatenate([padded[:, :, column : column + width] for column in range(3)], axis=-1)
    triples = lax.optimization_barrier(triples)
    rows = [lax.optimization_barrier(triples[:, row : row + height]) for row in range(3)]
    return [unpack(row).reshape(-1, 2 * row.shape[-1]) for row in rows]


def _sum_products(neighbours: list[BFloat16[Array, "pixels values"]], kernel: Kernel, shape: tuple[int, ...]) -> Packed:
    first, second, third = (
        _product(pixels, row.reshape(-1, row.shape[-1])) for pixels, row in zip(neighbours, kernel, strict=True)
    )
    return pack((first + second + third).astype(jnp.bfloat16).reshape(*shape[:3], -1))


def _product(left: jax.Array, right: jax.Array) -> Float32[Array, "rows columns"]:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)
