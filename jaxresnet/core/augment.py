"""Random crop, random flip, scaling and normalisation on the device, in the authors' order.

Cropping comes first and pads with zeros, so the border is black before normalisation. This matches
``transforms.Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(...)])``.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8


def crop(
    images: UInt8[Array, "batch height width channels"], offsets: Int[Array, "batch 2"], padding: int
) -> UInt8[Array, "batch height width channels"]:
    """Pad each image with ``padding`` zeros per side and crop it to its original size.

    Each binary digit of an offset selects between two static slices of the whole batch. A dynamic slice per image is
    shorter, but XLA compiles it for TPUs as a loop over the images.

    Args:
        images: pixels.
        offsets: first row and column of each crop in its padded image, in [0, 2 * ``padding``].
        padding: width of the zero border on each side, in pixels.
    """
    digits = (2 * padding).bit_length()
    after = 2**digits - 1 - padding  # enough for an offset with all digits set
    cropped = jnp.pad(images, ((0, 0), (padding, after), (padding, after), (0, 0)))
    for axis in (1, 2):
        for digit in reversed(range(digits)):
            size = images.shape[axis] + 2**digit - 1  # what the digits still to come need
            near, far = (jax.lax.slice_in_dim(cropped, at, at + size, axis=axis) for at in (0, 2**digit))
            is_far = offsets[:, axis - 1] >> digit & 1 == 1
            cropped = jnp.where(is_far[:, None, None, None], far, near)
    return cropped


def flip(
    images: UInt8[Array, "batch height width channels"], flipped: Bool[Array, " batch"]
) -> UInt8[Array, "batch height width channels"]:
    """Mirror left to right the images whose entry in ``flipped`` is true."""
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


@dataclasses.dataclass(frozen=True)
class Transform:
    """Image preprocessing. Hashable, so that it can be a static argument of jitted functions.

    Attributes:
        crop_padding: width of the zero border for random training crops, in pixels per side; 0 disables cropping.
        flip: random mirroring of training images, with probability 1/2.
        mean: channel means, subtracted after scaling to [0, 1].
        std: channel divisors, applied after the means are subtracted.
        side: side in pixels to which training images are shrunk, with antialiasing; ``None`` keeps their size.
    """

    crop_padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int | None = None

    def train(
        self, rng: Key[Array, ""], images: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch h w channels"]:
        """Augment, scale, normalise and shrink training images. Every image has its own random draws."""
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
        """Return the crop offsets and flips that ``train`` uses for ``rng``."""
        crop_rng, flip_rng = jax.random.split(rng)
        offsets = jax.random.randint(crop_rng, (batch, 2), 0, 2 * self.crop_padding + 1)
        return offsets, jax.random.bernoulli(flip_rng, 0.5, (batch,))

    def eval(self, images: UInt8[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        """Scale to [0, 1] and normalise, in float32."""
        scaled = images.astype(jnp.float32) / 255
        return (scaled - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
