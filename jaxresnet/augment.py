"""Random crop, random flip, scaling and normalisation, on the device, in the authors' order.

Cropping comes first and pads with zeros, so the border is black before normalisation, as in
``transforms.Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(...)])``.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8


def crop(
    images: UInt8[Array, "batch height width channels"], offsets: Int[Array, "batch 2"], padding: int
) -> UInt8[Array, "batch height width channels"]:
    """Pads each image with ``padding`` zeros a side and cuts its own size out again.

    Args:
        images: pixels.
        offsets: row and column, in [0, 2 * ``padding``], at which each cut starts in its padded image.
        padding: pixels of zeros on each side.
    """
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def flip(
    images: UInt8[Array, "batch height width channels"], flipped: Bool[Array, " batch"]
) -> UInt8[Array, "batch height width channels"]:
    """Mirrors left and right those images whose entry in ``flipped`` is true."""
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


@dataclasses.dataclass(frozen=True)
class Transform:
    """What happens to an image before the model sees it. Hashable, so that jitted functions can hold it.

    Attributes:
        crop_padding: pixels of zeros on each side from which training crops are cut; 0 for no crop.
        flip: whether a training image is mirrored with probability 1/2.
        mean: subtracted from each channel after scaling to [0, 1].
        std: what each channel is divided by after that.
        side: what training images are shrunk to, antialiased, in pixels; ``None`` for no change.
    """

    crop_padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int | None = None

    def train(
        self, rng: Key[Array, ""], images: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch h w channels"]:
        """A random rendering of each image, scaled, normalised and shrunk; every image has draws of its own."""
        offsets, flipped = self.draw(rng, len(images))
        if self.crop_padding:
            images = crop(images, offsets, self.crop_padding)
        if self.flip:
            images = flip(images, flipped)
        images = self.eval(images)
        if self.side is not None:
            shape = (len(images), self.side, self.side, images.shape[3])
            images = jax.image.resize(images, shape, "linear", antialias=True)
        return images

    def draw(self, rng: Key[Array, ""], batch: int) -> tuple[Int[Array, "batch 2"], Bool[Array, " batch"]]:
        """The crop offsets and flips that ``train`` uses for ``rng``."""
        crop_rng, flip_rng = jax.random.split(rng)
        offsets = jax.random.randint(crop_rng, (batch, 2), 0, 2 * self.crop_padding + 1)
        return offsets, jax.random.bernoulli(flip_rng, 0.5, (batch,))

    def eval(self, images: UInt8[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        """Scales to [0, 1] and normalises, in float32."""
        scaled = images.astype(jnp.float32) / 255
        return (scaled - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
