"""Augmentation on the device compared with NumPy for the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jaxresnet.core.augment import Transform, crop

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def images(batch=64, height=12, width=10):
    return np.random.default_rng(0).integers(1, 256, (batch, height, width, 3), dtype=np.uint8)


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


@pytest.mark.parametrize("seed", range(3))
def test_equals_numpy_at_the_same_offsets(seed):
    transform = Transform(crop_padding=4, flip=True, mean=MEAN, std=STD)
    rng = jax.random.key(seed)
    offsets, flipped = (np.asarray(draw) for draw in transform.draw(rng, 64))
    actual = jax.jit(transform.train)(rng, images())
    np.testing.assert_allclose(actual, normalise(render(images(), offsets, flipped, 4)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", [1, 2, 3, 4, 7, 8])
def test_all_offsets_cut_as_numpy_does(padding):
    offsets = np.indices((2 * padding + 1,) * 2).reshape(2, -1).T
    batch = images(len(offsets))
    expected = render(batch, offsets, np.zeros(len(offsets), bool), padding)
    np.testing.assert_array_equal(jax.jit(crop, static_argnums=2)(batch, offsets, padding), expected)


def test_the_border_is_black_before_normalisation():
    transform = Transform(crop_padding=4, flip=False, mean=MEAN, std=STD)
    actual = np.asarray(transform.train(jax.random.key(0), jnp.asarray(images(batch=512))))
    offsets, _ = transform.draw(jax.random.key(0), 512)
    corner = actual[np.all(np.asarray(offsets) == 0, axis=1)]
    assert len(corner) > 0
    np.testing.assert_allclose(
        corner[:, :4].reshape(-1, 3),
        np.broadcast_to(-np.float32(MEAN) / np.float32(STD), (len(corner) * 40, 3)),
        rtol=1e-5,
    )


def test_every_image_has_draws_of_its_own_that_cover_their_range():
    offsets, flipped = Transform(4, True, MEAN, STD).draw(jax.random.key(0), 20_000)
    counts = np.zeros((9, 9))
    np.add.at(counts, tuple(np.asarray(offsets).T), 1)
    expected = 20_000 / 81
    assert np.abs(counts - expected).max() < 5 * expected**0.5
    assert abs(np.mean(flipped) - 0.5) < 0.02
    # Rows, columns and flips are independent.
    correlations = np.corrcoef([*np.asarray(offsets).T, np.asarray(flipped)])
    assert np.abs(correlations - np.eye(3)).max() < 0.03


@pytest.mark.parametrize(("crop_padding", "flip"), [(0, False), (0, True), (2, False)])
def test_each_part_can_be_left_out(crop_padding, flip):
    transform = Transform(crop_padding, flip, (0.0,) * 3, (1.0,) * 3)
    rng = jax.random.key(5)
    offsets, flipped = (np.asarray(draw) for draw in transform.draw(rng, 64))
    expected = render(images(), offsets, flipped & flip, crop_padding)
    np.testing.assert_allclose(transform.train(rng, jnp.asarray(images())), expected / np.float32(255), rtol=1e-6)


@pytest.mark.parametrize("side", [16, 20, 24])
def test_small_images_equal_torchs(side):
    """The full-size training images are shrunk with antialiasing."""
    batch, rng = jnp.asarray(images(height=32, width=32)), jax.random.key(3)
    actual = Transform(4, True, MEAN, STD, side).train(rng, batch)
    whole = np.array(Transform(4, True, MEAN, STD).train(rng, batch)).transpose(0, 3, 1, 2)
    expected = F.interpolate(torch.from_numpy(whole), size=side, mode="bilinear", antialias=True)
    np.testing.assert_allclose(actual, expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [None, 16])
def test_evaluation_only_normalises(side):
    np.testing.assert_allclose(
        Transform(4, True, MEAN, STD, side).eval(jnp.asarray(images())), normalise(images()), rtol=1e-5, atol=1e-6
    )
