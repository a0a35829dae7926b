"""The transforms of Winograd's F(2x2, 3x3) for 3x3 convolutions on CPUs, at stride 1 and padding 1.

V = B'dB for overlapping 4x4 input tiles d, and U = GwG' for the kernel w. The 2x2 output tiles are A'[VU]A. VU is 16
matrix products (tiles, in) x (in, out), one per position in a tile. The 16 stay separate arrays, because joining them
would cost a copy. B, G and A are written out as sums, because XLA:CPU is slow at products with such narrow matrices.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from jaxresnet.kernels.sharding import Images, Kernel

# F(4x4, 3x3) needs fewer multiplications, but is slower here, because its transforms cost more: 144 against 178 GFLOP/s
# a core at 64 channels, on an Intel Xeon. In bfloat16 the transforms dominate as well, and it loses to float32.
Tiles = list[Float[Array, "tiles channels"]]


def convolve(x: Images, u: Tiles) -> Images:
    """Convolve images with a kernel that ``transform_kernel`` has transformed."""
    return _output_tiles([v @ each for v, each in zip(input_tiles(x), u, strict=True)], x.shape)


def transform_kernel(kernel: Kernel) -> Tiles:
    """Return GwG' of the kernel w, position by position."""

    def transform(w0: jax.Array, w1: jax.Array, w2: jax.Array) -> list[jax.Array]:
        return [w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, w2]

    return [tile for row in transform(*kernel) for tile in transform(*row)]


def rotate(u: Tiles) -> Tiles:
    """Return the transform of the transposed kernel, rotated by 180 degrees: first and last positions change places."""
    order = (3, 1, 2, 0)
    return [u[4 * i + j].T for i in order for j in order]


def input_tiles(x: Images) -> Tiles:
    """Return B'dB of every 4x4 tile d, at steps of 2."""

    def transform(d0: jax.Array, d1: jax.Array, d2: jax.Array, d3: jax.Array) -> list[jax.Array]:
        return [d0 - d2, d1 + d2, d2 - d1, d1 - d3]

    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = transform(*(padded[:, i : i + height - 1 : 2] for i in range(4)))
    tiles = [tile for row in rows for tile in transform(*(row[:, :, j : j + width - 1 : 2] for j in range(4)))]
    return [tile.reshape(-1, channels) for tile in tiles]


def _output_tiles(products: Tiles, shape: tuple[int, ...]) -> Images:
    """Compute A'mA of every 4x4 tile m and assemble images of the given batch, height and width."""

    def transform(m0: jax.Array, m1: jax.Array, m2: jax.Array, m3: jax.Array) -> list[jax.Array]:
        return [m0 + m1 + m2, m1 - m2 - m3]

    batch, height, width, _ = shape
    m = [product.reshape(batch, height // 2, width // 2, -1) for product in products]
    return interleave(_transform_tiles(m, transform))


def grad_tiles(grad: Images) -> list[Float[Array, "features tiles"]]:
    """Return AgA' of every 2x2 tile g, the transpose of the output transform, as matrices (features, tiles)."""

    def transform(g0: jax.Array, g1: jax.Array) -> list[jax.Array]:
        return [g0, g0 + g1, g0 - g1, -g1]

    # Transposing the 4 quarters of the pixels takes a quarter of the copies of transposing the 16 sums.
    quarters = [[transpose(grad[:, i::2, j::2].reshape(-1, grad.shape[-1])) for j in range(2)] for i in range(2)]
    rows = [transform(quarters[0][j], quarters[1][j]) for j in range(2)]
    return [tile for left, right in zip(*rows, strict=True) for tile in transform(left, right)]


def kernel_gradient(sums: Sequence[Float[Array, "features channels"]]) -> Kernel:
    """Transform the products of gradient and input tiles, summed over all images, to the kernel's layout."""

    def transform(u0: jax.Array, u1: jax.Array, u2: jax.Array, u3: jax.Array) -> list[jax.Array]:
        return [u0 + (u1 + u2) / 2, (u1 - u2) / 2, (u1 + u2) / 2 + u3]

    return jnp.stack([jnp.stack(row) for row in _transform_tiles(sums, transform)]).swapaxes(2, 3)


def _transform_tiles(
    tiles: Sequence[jax.Array], transform: Callable[..., list[jax.Array]]
) -> list[tuple[jax.Array, ...]]:
    """Apply a transform of four values to the rows of 4x4 tiles, and then to the columns; return the rows."""
    rows = [transform(*tiles[first : first + 4]) for first in range(0, 16, 4)]
    columns = [transform(*column) for column in zip(*rows, strict=True)]
    return list(zip(*columns, strict=True))


def transpose(matrix: Float[Array, "rows columns"]) -> Float[Array, "columns rows"]:
    """Transpose a matrix in memory, once.

    XLA:CPU multiplies fast only if no operand has to be transposed. By default it fuses the transposition into every
    use. The barriers keep it separate, and the layout makes it a copy.
    """
    transposed = with_layout_constraint(lax.optimization_barrier(matrix).T, Layout((0, 1)))
    return lax.optimization_barrier(transposed)


def interleave(quarters: Sequence[Sequence[jax.Array]]) -> Images:
    """Assemble images from the even and odd columns of their even and odd rows."""
    batch, height, width, channels = quarters[0][0].shape
    rows = [jnp.stack(row, axis=3) for row in quarters]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, channels)
