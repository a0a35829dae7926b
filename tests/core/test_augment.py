"""Augmentation on the device compared with NumPy for the same draws."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxresnet.core.augment import crop_at
from jaxresnet.core.state import create_transform
from jaxresnet.system.errors import UserError
from tests.torch_reference import F, from_torch, to_torch_images

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def make_transform(small_images=(), label_smoothing=0.0, **fields):
    """Return the default transform with changed fields of ``config.augment``."""
    config = default.get_config()
    config.model.pooling, config.label_smoothing = "global", label_smoothing
    config.augment.update({"small_images": small_images, **fields})
    return create_transform(config)


def images(batch=64, height=12, width=10):
    return np.random.default_rng(0).integers(1, 256, (batch, height, width, 3), dtype=np.uint8)


def labels(batch=64):
    return np.arange(batch, dtype=np.int32) % 10


def train(transform, rng, batch):
    """Return the images and targets of a training batch as NumPy arrays."""
    return [np.asarray(array) for array in jax.jit(transform.train)(rng, batch, labels(len(batch)))]


def draw(rng, batch, padding=4):
    """Return the crop offsets and the flips of a batch. Changing these draws changes every run."""
    crop_rng, flip_rng = jax.random.split(rng)
    offsets = jax.random.randint(crop_rng, (batch, 2), 0, 2 * padding + 1)
    return np.asarray(offsets), np.asarray(jax.random.bernoulli(flip_rng, 0.5, (batch,)))


def key_of(stage, rng):
    """Return the key of a stage other than crop and flip."""
    return jax.random.fold_in(rng, zlib.crc32(stage.encode()))


def render(batch, offsets, flipped, padding):
    """Pad, cut and mirror one image after the other."""
    outputs = []
    for image, (row, column), mirrored in zip(batch, offsets, flipped, strict=True):
        height, width, _ = image.shape
        padded = np.zeros((height + 2 * padding, width + 2 * padding, 3), np.uint8)
        padded[padding : padding + height, padding : padding + width] = image
        cut = padded[row : row + height, column : column + width]
        outputs.append(cut[:, ::-1] if mirrored else cut)
    return np.stack(outputs)


def normalise(batch):
    return (batch.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)


@pytest.mark.parametrize(("crop_padding", "flip"), [(4, True), (0, False), (0, True), (2, False)])
def test_crop_and_flip_equal_numpy(crop_padding, flip):
    rng = jax.random.key(crop_padding)
    offsets, flipped = draw(rng, 64, crop_padding)
    actual, targets = train(make_transform(crop_padding=crop_padding, flip=flip), rng, images())
    expected = render(images(), offsets, flipped & flip, crop_padding)
    np.testing.assert_allclose(actual, normalise(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(targets, labels())


@pytest.mark.parametrize("padding", [1, 2, 3, 4, 7, 8])
def test_all_offsets_crop_as_numpy(padding):
    offsets = np.indices((2 * padding + 1,) * 2).reshape(2, -1).T
    batch = images(len(offsets))
    expected = render(batch, offsets, np.zeros(len(offsets), bool), padding)
    np.testing.assert_array_equal(jax.jit(crop_at, static_argnums=2)(batch, offsets, padding), expected)


def test_border_is_black_before_normalisation():
    rng = jax.random.key(0)
    actual, _ = train(make_transform(flip=False), rng, images(batch=512))
    corner = actual[np.all(draw(rng, 512)[0] == 0, axis=1)]
    assert len(corner) > 0
    np.testing.assert_allclose(
        corner[:, :4].reshape(-1, 3),
        np.broadcast_to(-np.float32(MEAN) / np.float32(STD), (len(corner) * 40, 3)),
        rtol=1e-5,
    )


def test_draws_are_independent_and_uniform():
    offsets, flipped = draw(jax.random.key(0), 20_000)
    counts = np.zeros((9, 9))
    np.add.at(counts, tuple(offsets.T), 1)
    expected = 20_000 / 81
    assert np.abs(counts - expected).max() < 5 * expected**0.5
    assert abs(np.mean(flipped) - 0.5) < 0.02
    correlations = np.corrcoef([*offsets.T, flipped])
    assert np.abs(correlations - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("side", [16, 20, 24])
def test_small_images_equal_torch(side):
    """The full-size training images are shrunk with antialiasing."""
    batch, rng = images(batch=8, height=32, width=32), jax.random.key(3)
    actual, _ = train(make_transform(small_images=((side, 1.0),)), rng, batch)
    whole = train(make_transform(), rng, batch)[0]

    def shrink():
        smaller = F.interpolate(to_torch_images(whole), size=side, mode="bilinear", antialias=True)
        return {"images": smaller.permute(0, 2, 3, 1)}

    expected = from_torch(f"augment/{side} pixels", shrink)["images"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("small_images", [(), ((16, 1.0),)])
def test_evaluation_only_normalises(small_images):
    transform = make_transform(small_images, label_smoothing=0.1)
    np.testing.assert_allclose(transform.eval(jnp.asarray(images())), normalise(images()), rtol=1e-5, atol=1e-6)


def test_smoothed_labels_equal_numpy():
    rng = jax.random.key(1)
    actual, targets = train(make_transform(label_smoothing=0.1), rng, images())
    np.testing.assert_allclose(targets, 0.9 * np.eye(10)[labels()] + 0.01, rtol=1e-6)
    np.testing.assert_array_equal(actual, train(make_transform(), rng, images())[0])


@pytest.mark.parametrize("size", [1, 4, 5, 10])
def test_cutout_equals_numpy(size):
    rng = jax.random.key(size)
    actual, targets = train(make_transform(crop_padding=0, flip=False, cutout_size=size), rng, images())
    expected = normalise(images())
    centres = np.asarray(jax.random.randint(key_of("cutout", rng), (64, 2), 0, jnp.array([12, 10])))
    assert set(centres[:, 0]) == set(range(12)) and set(centres[:, 1]) == set(range(10))
    for image, centre in zip(expected, centres, strict=True):
        top, left = centre - size // 2
        image[max(top, 0) : top + size, max(left, 0) : left + size] = 0
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(targets, labels())


def test_cutout_wider_than_image_is_refused():
    with pytest.raises(UserError, match=r"^augment.cutout_size=11: wider than the images of 12x10 pixels"):
        train(make_transform(cutout_size=11), jax.random.key(0), images())


@pytest.mark.parametrize("seed", range(4))
def test_cutmix_equals_numpy(seed):
    rng = jax.random.key(seed)
    transform = make_transform(crop_padding=0, flip=False, cutmix_alpha=1.0, label_smoothing=0.1)
    actual, targets = train(transform, rng, images())
    keys = jax.random.split(key_of("cutmix", rng), 3)
    around, order = float(jax.random.beta(keys[0], 1.0, 1.0)), np.asarray(jax.random.permutation(keys[2], 64))
    row, column = np.asarray(jax.random.randint(keys[1], (1, 2), 0, jnp.array([12, 10])))[0]
    height, width = int(12 * (1 - around) ** 0.5), int(10 * (1 - around) ** 0.5)
    box = np.zeros((12, 10), bool)
    top, left = row - height // 2, column - width // 2
    box[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    expected = np.where(box[..., None], images()[order], images())
    np.testing.assert_allclose(actual, normalise(expected), rtol=1e-5, atol=1e-6)
    one_hot = np.eye(10)[labels()]
    shares = (1 - box.mean()) * one_hot + box.mean() * one_hot[order]
    np.testing.assert_allclose(targets, 0.9 * shares + 0.01, rtol=1e-5)
