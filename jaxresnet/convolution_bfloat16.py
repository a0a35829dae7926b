"""3x3 convolutions of bfloat16 images on CPUs, at stride 1 and padding 1, as products of matrices.

Recent processors have units that multiply bfloat16 matrices, with float32 sums, several times as fast as float32 ones
(AMX, AVX512-BF16). XLA:CPU uses them for products of bfloat16 with a float32 result, but not for convolutions. Here
each row of a 3x3 kernel becomes one product, whose left matrix holds the three neighbours that the row reads side by
side. The three products are summed in float32.

XLA:CPU copies two-byte values at a third of the speed of four-byte ones, and updates them more slowly still. So images
are copied as pairs of channels, each pair one uint32: ``pack`` makes them, and all that is not a product works on them.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, BFloat16, Float32, UInt32

Images = BFloat16[Array, "batch height width channels"]
Packed = UInt32[Array, "batch height width pairs"]
Kernel = BFloat16[Array, "3 3 channels features"]


def pack(images: Images) -> Packed:
    """Return the images with each two channels as one integer. The number of channels must be even."""
    pairs = images.reshape(*images.shape[:-1], -1, 2)
    return lax.bitcast_convert_type(pairs, jnp.uint32)


def unpack(packed: Packed) -> Images:
    """Return the images that ``pack`` was given."""
    pairs = lax.bitcast_convert_type(packed, jnp.bfloat16)
    return pairs.reshape(*packed.shape[:-1], -1)


def convolve(packed: Packed, kernel: Kernel) -> Packed:
    """Convolve packed images, and return the result packed."""
    return _sum_products(_neighbours(packed), kernel, packed.shape)


def gradients(
    x_transposed: BFloat16[Array, "channels pixels"], grad: Packed, kernel: Kernel
) -> tuple[Float32[Array, "3 channels values"], Packed]:
    """Compute both gradients from the same neighbours of the output's gradient.

    Args:
        x_transposed: the input, with a row for each channel.
        grad: gradient of the output, packed.
        kernel: the convolution's.

    Returns:
        The gradient of the kernel, for ``kernel_gradient``, which may be summed over batches before; and the gradient
        of the input, packed.
    """
    neighbours = _neighbours(grad)
    dkernel = jnp.stack([_product(x_transposed, row) for row in neighbours])
    # The input's gradient is a convolution of the output's, with the kernel turned around.
    return dkernel, _sum_products(neighbours, kernel[::-1, ::-1].swapaxes(2, 3), grad.shape)


def kernel_gradient(sums: Float32[Array, "3 channels values"]) -> Float32[Array, "3 3 channels features"]:
    """Arrange what ``gradients`` returns like the kernel."""
    height, channels, values = sums.shape
    return sums.reshape(height, channels, 3, values // 3).swapaxes(1, 2)[::-1, ::-1]


def _neighbours(packed: Packed) -> list[BFloat16[Array, "pixels values"]]:
    """Return a matrix for each row of a kernel. Each of its rows holds the channels of a pixel and its neighbours."""
    height, width = packed.shape[1:3]
    # The barriers make each copy a loop of its own. XLA:CPU fuses them to one that is several times as slow.
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
