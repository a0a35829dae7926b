"""The floating-point operations of training: what the work of a run, and of a part of it, is measured by."""

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxresnet.architecture import multiply_adds
from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.train_state import create_model, create_transform


def flop_by_epoch(config: ConfigDict) -> Float[np.ndarray, " epochs"]:
    """Count the operations of training on one image in each epoch: two a multiply-add, forward and twice that backward.
    Smaller images take fewer."""
    model, (height, width, channels) = create_model(config), IMAGE_SHAPE
    sides = [create_transform(config, epoch).side for epoch in range(config.num_epochs)]
    return np.array([6.0 * multiply_adds(model, (side or height, side or width, channels)) for side in sides])


def flop_per_image(config: ConfigDict) -> float:
    """Return the mean of ``flop_by_epoch``."""
    return float(np.mean(flop_by_epoch(config)))


def flop_until(config: ConfigDict, epochs: Float[np.ndarray, " times"]) -> Float[np.ndarray, " times"]:
    """Count the operations of training on one image in every epoch up to each of these times, in epochs with
    fractions."""
    ends = np.concatenate([[0.0], np.cumsum(flop_by_epoch(config))])
    return np.interp(epochs, np.arange(len(ends)), ends)
