"""Floating-point operations of training, a measure of the work of a run or a part of it."""

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxresnet.core.layers import multiply_adds
from jaxresnet.core.state import create_model, create_transform


def flop_by_epoch(config: ConfigDict, image_shape: tuple[int, int, int]) -> Float[np.ndarray, " epochs"]:
    """Count the operations per training image in each epoch.

    A multiply-add is two operations. Backward takes twice as many as forward. Smaller images take fewer.
    """
    # Dropout has no multiply-adds. Without it, models that differ in its rate share their count in the cache.
    model, (height, width, channels) = create_model(config).clone(dropout_rate=0.0), image_shape
    sides = [create_transform(config, epoch).side for epoch in range(config.num_epochs)]
    return np.array([6.0 * multiply_adds(model, (side or height, side or width, channels)) for side in sides])


def flop_per_image(config: ConfigDict, image_shape: tuple[int, int, int]) -> float:
    """Return the mean of ``flop_by_epoch``."""
    return float(np.mean(flop_by_epoch(config, image_shape)))


def flop_until(
    config: ConfigDict, image_shape: tuple[int, int, int], epochs: Float[np.ndarray, " times"]
) -> Float[np.ndarray, " times"]:
    """Count the operations per training image from the start to each time, given in fractional epochs."""
    ends = np.concatenate([[0.0], np.cumsum(flop_by_epoch(config, image_shape))])
    return np.interp(epochs, np.arange(len(ends)), ends)
