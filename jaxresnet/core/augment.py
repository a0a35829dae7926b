"""Augmentation as a list of stages, scaling and normalisation, all on the device and in the authors' order.

A stage is a function (rng, images, targets, **fields) -> (images, targets). Its images are pixels in [0, 255]. Its
targets are class numbers (batch,), or shares of the classes (batch, classes) once a stage has made them soft. A stage
gets the fields of ``config.augment`` that its signature names, and also ``label_smoothing`` and ``num_classes``. It is
off while the first of them is 0 or False. To add one, write the function, list it in ``STAGES``, and give
``configs/default.py`` a line for its field.

Cropping pads with zeros, so the border is black before normalisation. This matches
``transforms.Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(...)])``.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, Num, UInt8

from jaxresnet.extensions import options_of
from jaxresnet.system.errors import UserError

Images = Num[Array, "batch height width channels"]
Targets = Num[Array, "batch ..."]
Rng = Key[Array, ""]
Stage = Callable[..., tuple[Images, Targets]]


def crop(rng: Rng, images: Images, targets: Targets, crop_padding: int) -> tuple[Images, Targets]:
    """Pad each image with ``crop_padding`` zeros per side, and crop it at random to its original size."""
    offsets = jax.random.randint(rng, (len(images), 2), 0, 2 * crop_padding + 1)
    return crop_at(images, offsets, crop_padding), targets


def crop_at(images: Images, offsets: Int[Array, "batch 2"], padding: int) -> Images:
    """Crop each padded image at its offset, the first row and column, in [0, 2 * ``padding``].

    Each binary digit of an offset selects between two static slices of the whole batch. A dynamic slice per image is
    shorter, but XLA compiles it for TPUs as a loop over the images.
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


def flip(rng: Rng, images: Images, targets: Targets, flip: bool) -> tuple[Images, Targets]:
    """Mirror each image left to right with probability 1/2."""
    flipped = jax.random.bernoulli(rng, 0.5, (len(images),))
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images), targets


def cutout(
    rng: Rng, images: Images, targets: Targets, cutout_size: int, mean: tuple[float, ...]
) -> tuple[Images, Targets]:
    """Give a square of each image the mean colour (DeVries and Taylor, 2017). Borders clip it.

    Its centre is uniform over the image. The means are of pixels in [0, 1].
    """
    if cutout_size > min(images.shape[1:3]):
        height, width = images.shape[1:3]
        raise UserError(f"augment.cutout_size={cutout_size}: wider than the images of {height}x{width} pixels")
    centres = jax.random.randint(rng, (len(images), 2), 0, jnp.array(images.shape[1:3]))
    return jnp.where(_boxes(images, centres, (cutout_size, cutout_size)), 255 * jnp.asarray(mean), images), targets


def cutmix(rng: Rng, images: Images, targets: Targets, cutmix_alpha: float, num_classes: int) -> tuple[Images, Targets]:
    """Paste a box of another image of the batch into each image, and share its target by area (Yun et al., 2019).

    The batch has one box, with the images' aspect ratio and a centre that is uniform over the image. Before borders
    clip it, the share of the image around it has the distribution Beta(``cutmix_alpha``, ``cutmix_alpha``).
    """
    beta_rng, centre_rng, order_rng = jax.random.split(rng, 3)
    shape = jnp.array(images.shape[1:3])
    height, width = (shape * jnp.sqrt(1 - jax.random.beta(beta_rng, cutmix_alpha, cutmix_alpha))).astype(int)
    box = _boxes(images, jax.random.randint(centre_rng, (1, 2), 0, shape), (height, width))
    order, own, share = jax.random.permutation(order_rng, len(images)), soft(targets, num_classes), jnp.mean(box)
    return jnp.where(box, images[order], images), (1 - share) * own + share * own[order]


def _boxes(images: Images, centres: Int[Array, "boxes 2"], sides: tuple[Any, Any]) -> Bool[Array, "boxes h w 1"]:
    """Return True for the pixels inside each box, from ``sides // 2`` before its centre."""
    inside = []
    for axis, side in enumerate(sides):
        at = jnp.arange(images.shape[1 + axis]) - (centres[:, axis, None] - side // 2)
        inside.append((at >= 0) & (at < side))
    return (inside[0][:, :, None] & inside[1][:, None, :])[..., None]


def smooth_labels(
    rng: Rng, images: Images, targets: Targets, label_smoothing: float, num_classes: int
) -> tuple[Images, Targets]:
    """Divide a share of each target, in [0, 1), among all classes."""
    return images, optax.smooth_labels(soft(targets, num_classes), label_smoothing)


def soft(targets: Targets, num_classes: int) -> Float[Array, "batch classes"]:
    """Return targets as shares of the classes."""
    return jax.nn.one_hot(targets, num_classes) if targets.ndim == 1 else targets


STAGES: tuple[Stage, ...] = (crop, flip, cutout, cutmix, smooth_labels)


@dataclasses.dataclass(frozen=True)
class Transform:
    """Image preprocessing. Hashable, so that it can be a static argument of jitted functions."""

    stages: tuple[tuple[Stage, tuple[tuple[str, Any], ...]], ...]  # of training, with options, as ``bind`` returns
    mean: tuple[float, ...]  # channel means, subtracted after scaling to [0, 1]
    std: tuple[float, ...]  # channel divisors, applied after the means are subtracted
    side: int | None = None  # pixels, to which training images are shrunk with antialiasing; None keeps their size

    def train(
        self, rng: Rng, images: UInt8[Array, "batch height width channels"], labels: Int[Array, " batch"]
    ) -> tuple[Float[Array, "batch h w channels"], Targets]:
        """Augment, scale, normalise and shrink training images. Every image has its own random draws."""
        # The key of a stage depends on its name alone, so other stages do not change its draws.
        keys, pixels, targets = dict(zip(("crop", "flip"), jax.random.split(rng), strict=True)), images, labels
        for stage, options in self.stages:
            name = stage.__name__
            key = keys[name] if name in keys else jax.random.fold_in(rng, zlib.crc32(name.encode()))
            pixels, targets = stage(key, pixels, targets, **dict(options))
        normalised = self.eval(pixels)
        if self.side is not None:
            shape = (len(images), self.side, self.side, images.shape[3])
            normalised = jax.image.resize(normalised, shape, "linear", antialias=True)
        return normalised, targets

    def eval(self, images: Images) -> Float[Array, "batch height width channels"]:
        """Scale to [0, 1] and normalise, in float32."""
        scaled = images.astype(jnp.float32) / 255
        return (scaled - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)


def bind(stages: Sequence[Stage], fields: Mapping[str, Any]) -> tuple[tuple[Stage, tuple[tuple[str, Any], ...]], ...]:
    """Give each stage the fields that it names, and leave out those that are off.

    Raises:
        UserError: a stage names a field that does not exist.
    """
    bound = [(stage, tuple(options_of(stage, fields, "config.augment", skip=3).items())) for stage in stages]
    return tuple((stage, options) for stage, options in bound if not options or options[0][1])
