"""Reader of CIFAR-10's pickled batches, which PyTorch users have."""

import pathlib
from typing import NamedTuple

import numpy as np

from jaxresnet.data.arrays import IMAGE_SHAPE, Arrays
from jaxresnet.data.unpickle import to_array, unpickle
from jaxresnet.system.errors import UserError, one_line

BATCHES_FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
NUM_IMAGES = 10_000  # in each batch


def find_batches(path: pathlib.Path) -> pathlib.Path | None:
    """Return ``path`` or its ``cifar-10-batches-py``, the first that holds a pickled batch, or None."""
    for folder in (path, path / BATCHES_FOLDER):
        if any((folder / name).is_file() for name in (*TRAIN_BATCHES, TEST_BATCH)):
            return folder
    return None


def load_batches(folder: pathlib.Path) -> Arrays:
    """Read the official pickled batches of 10,000 images each, in their order.

    Returns:
        The arrays in ``ARRAYS``: images (size, 32, 32, 3) uint8 and labels (size,).

    Raises:
        UserError: a batch is missing or damaged, or asks for a type that these files do not use.
    """
    images, labels = zip(*(_load_batch(folder / name) for name in (*TRAIN_BATCHES, TEST_BATCH)), strict=True)
    return {
        "train_images": np.concatenate(images[:-1]),
        "train_labels": np.concatenate(labels[:-1]),
        "test_images": images[-1],
        "test_labels": labels[-1],
    }


def _load_batch(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: is missing; unpack the official archive again")
    batch = load_pickle(path)
    if len(batch.images) != NUM_IMAGES or batch.labels is None:
        raise UserError(
            f"{path}: holds {len(batch.images):,} images and {'no ' if batch.labels is None else ''}labels: expected "
            f"{NUM_IMAGES:,} of each"
        )
    return batch.images, batch.labels


class PickledImages(NamedTuple):
    """Images in a pickle.

    Attributes:
        images: (size, 32, 32, 3) uint8.
        labels: (size,) integers, or None if the file has none.
        ids: the file's name of each image, or None if it has none.
    """

    images: np.ndarray
    labels: np.ndarray | None
    ids: list[str] | None


def load_pickle(path: pathlib.Path) -> PickledImages:
    """Read images from a pickled dictionary, such as a batch of CIFAR-10.

    ``b"data"`` is uint8 of shape (size, 3072) as in CIFAR-10's own batches, (size, 3, 32, 32) or (size, 32, 32, 3).
    ``b"labels"`` and ``b"ids"`` are optional. Other entries are ignored.

    Raises:
        UserError: the file is damaged, holds something else, or asks for a type that these files do not use.
    """
    try:
        batch = unpickle(path.read_bytes())
        # Keys are bytes in pickles of Python 2, but strings in those of Python 3.
        batch = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
        if b"data" not in batch:
            raise ValueError("it has no b'data'")
        data = to_array(batch[b"data"])
        labels, ids = (to_array(batch[key]) if key in batch else None for key in (b"labels", b"ids"))
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: is not a batch of CIFAR-10, or a damaged one ({one_line(error)})") from error
    height, width, channels = IMAGE_SHAPE
    flat, planes = (channels * height * width,), (channels, height, width)
    if data.dtype != np.uint8 or data.shape[1:] not in (flat, planes, IMAGE_SHAPE) or not len(data):
        raise UserError(
            f"{path}: holds {data.dtype} images of shape {data.shape}: expected uint8 of shape (any size, {flat[0]})"
        )
    for name, values in (("labels", labels), ("ids", ids)):
        if values is not None and values.shape != (len(data),):
            raise UserError(f"{path}: holds {name} of shape {values.shape}: expected ({len(data)},), one per image")
    if ids is not None and ids.dtype.kind not in "iuSUO":
        raise UserError(f"{path}: holds ids of type {ids.dtype}: expected integers or names")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.min() < 0):
        raise UserError(f"{path}: holds labels of type {labels.dtype} or negative ones: expected integers from 0")
    if data.shape[1:] != IMAGE_SHAPE:
        data = data.reshape(-1, *planes).transpose(0, 2, 3, 1)
    if ids is None:
        return PickledImages(data, labels, None)
    names = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in ids.tolist()]
    return PickledImages(data, labels, names)
