"""Pickled images: the batches of CIFAR-10 that PyTorch users have, and those of courses."""

import io
import pathlib
import pickle
from typing import Any, NamedTuple

import numpy as np

from jaxresnet.data.cifar import ARRAYS, IMAGE_SHAPE, Arrays
from jaxresnet.system.errors import UserError, one_line

BATCHES_FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
NUM_IMAGES = 10_000  # in each batch


class PickledImages(NamedTuple):
    """Images (size, 32, 32, 3) uint8, and their labels (size,) and the file's names of them, or None without any."""

    images: np.ndarray
    labels: np.ndarray | None
    ids: list[str] | None


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
        UserError: a batch is missing or damaged.
    """
    images, labels = [], []
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        pixels, targets, _ = load_pickle(folder / name)
        if len(pixels) != NUM_IMAGES or targets is None:
            raise UserError(f"{folder / name}: holds {len(pixels):,} images: expected {NUM_IMAGES:,} with labels")
        images.append(pixels)
        labels.append(targets)
    train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return dict(zip(ARRAYS, (*train, images[-1], labels[-1]), strict=True))


def load_pickle(path: pathlib.Path) -> PickledImages:
    """Read images from a pickled dictionary, such as a batch of CIFAR-10.

    ``b"data"`` is uint8 of shape (size, 3072) as in CIFAR-10's own batches, (size, 3, 32, 32) or (size, 32, 32, 3).
    ``b"labels"`` and ``b"ids"`` are optional. Other entries are ignored.

    Raises:
        UserError: the file is damaged, holds something else, or calls anything but NumPy's constructors.
    """
    try:
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        # Keys are bytes in pickles of Python 2, but strings in those of Python 3.
        batch = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
        data, labels, ids = batch[b"data"], batch.get(b"labels"), batch.get(b"ids")
        data = np.asarray(data)
        if labels is not None:
            labels = np.asarray(labels)
        if ids is not None:
            ids = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in ids]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); unpack the archive again") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: is not a batch of CIFAR-10, or a damaged one ({one_line(error)})") from error
    if data.dtype != np.uint8 or data.shape[1:] not in ((3072,), (3, 32, 32), IMAGE_SHAPE) or not len(data):
        raise UserError(f"{path}: holds {data.dtype} images of shape {data.shape}: expected uint8 (size, 3072)")
    if ids is not None and len(ids) != len(data):
        raise UserError(f"{path}: holds {len(ids):,} ids: expected one per image, {len(data):,}")
    if labels is not None and (labels.shape != (len(data),) or labels.dtype.kind not in "iu" or labels.min() < 0):
        raise UserError(f"{path}: holds {labels.dtype} labels {labels.shape}: expected {len(data):,} integers from 0")
    if data.shape[1:] != IMAGE_SHAPE:
        data = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return PickledImages(data, labels, ids)


class _Unpickler(pickle.Unpickler):
    """Unpickler of arrays and plain Python types, so that no file can run code."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # the official files use the names of NumPy 1
        if (module, name) not in _CONSTRUCTORS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no batch of CIFAR-10 does")
        return super().find_class(module, name)


_CONSTRUCTORS = (
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),  # arrays at protocol 5
    ("_codecs", "encode"),  # bytes below protocol 3
)
