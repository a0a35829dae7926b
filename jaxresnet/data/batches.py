"""Official files of CIFAR-10 and CIFAR-100, pickled or binary, and pickled images of courses."""

import io
import pathlib
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxresnet.data import cifar as sets
from jaxresnet.data.cifar import CIFAR10, CIFAR10_CLASSES, IMAGE_SHAPE, Archive, Arrays, Cifar
from jaxresnet.system.errors import UserError, one_line

Read = Callable[[str], bytes]  # function that returns the content of the file of a name


class PickledImages(NamedTuple):
    """Images (size, 32, 32, 3) uint8, and their labels (size,) and the file's names of them, or None without any."""

    images: np.ndarray
    labels: np.ndarray | None
    ids: list[str] | None


def find_batches(path: pathlib.Path, cifar: Cifar) -> tuple[pathlib.Path, Archive] | None:
    """Return ``path`` or the folder in it that holds batches of an official archive, and that archive, or None."""
    for archive in cifar.archives:
        for folder in (path, path / archive.folder):
            if any((folder / file).is_file() for split in cifar.batches for file in archive.files(cifar, split)):
                return folder, archive
    return None


def load_batches(cifar: Cifar, folder: pathlib.Path, archive: Archive) -> tuple[Arrays, tuple[str, ...] | None]:
    """Read the unpacked files of an official archive, in their order.

    Returns:
        The arrays in ``ARRAYS``: images (size, 32, 32, 3) uint8 and labels (size,). And the class names, or None if
        CIFAR-100's are missing.

    Raises:
        UserError: a batch is missing or damaged.
    """

    def read(name: str) -> bytes:
        return _read(folder / name)

    arrays: Arrays = {}
    for split in cifar.batches:
        arrays[f"{split}_images"], labels = read_split(cifar, archive, split, read, folder)
        arrays[f"{split}_labels"] = labels["label"]
    if cifar is CIFAR10:
        return arrays, CIFAR10_CLASSES
    return arrays, tuple(read_names(cifar, archive, "label", read)) if (folder / cifar.meta).exists() else None


def read_split(
    cifar: Cifar, archive: Archive, split: str, read: Read, folder: pathlib.Path
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read a split's batches, which are files of ``folder``.

    Returns:
        Images (size, 32, 32, 3) uint8, and labels (size,) by tfds's names of them.

    Raises:
        UserError: a batch is missing or damaged.
    """
    parse = _parse_binary if archive.is_binary else _parse_pickle
    files = archive.files(cifar, split)
    size = (sets.NUM_TRAIN if split == "train" else sets.NUM_TEST) // len(files)
    batches = [parse(read(file), folder / file, cifar) for file in files]
    for file, (images, labels, _) in zip(files, batches, strict=True):
        if len(images) != size or any(each is None for each in labels.values()):
            raise UserError(f"{folder / file}: holds {len(images):,} images: expected {size:,} with labels")
    return np.concatenate([images for images, _, _ in batches]), {
        name: np.concatenate([labels[name] for _, labels, _ in batches]) for name in cifar.labels
    }


def read_names(cifar: Cifar, archive: Archive, label: str, read: Read) -> list[str]:
    """Read the class names of a label."""
    if archive.is_binary:
        return read(cifar.labels[label].names_file).decode().split()
    return [name.decode() for name in _unpickle(read(cifar.meta))[cifar.labels[label].names_key]]


def load_pickle(path: pathlib.Path) -> PickledImages:
    """Read images from a pickled dictionary, such as a batch of CIFAR-10.

    ``b"data"`` is uint8 of shape (size, 3072) as in CIFAR-10's own batches, (size, 3, 32, 32) or (size, 32, 32, 3).
    ``b"labels"`` (or CIFAR-100's ``b"fine_labels"``) and ``b"ids"`` are optional. Other entries are ignored.

    Raises:
        UserError: the file is damaged, holds something else, or calls anything but NumPy's constructors.
    """
    images, labels, ids = _parse_pickle(_read(path), path, CIFAR10)
    return PickledImages(images, labels["label"], ids)


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); unpack the archive again") from error


_Batch = tuple[np.ndarray, dict[str, np.ndarray | None], list[str] | None]  # images, labels, names of images


def _parse_binary(content: bytes, path: pathlib.Path, cifar: Cifar) -> _Batch:
    width = len(cifar.labels) + 3072
    if len(content) % width:
        raise UserError(f"{path}: holds {len(content):,} bytes: expected a multiple of {width:,}; unpack it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, width)
    labels = {name: records[:, column] for column, name in enumerate(cifar.labels)}
    return _channels_last(records[:, len(labels) :]), labels, None


def _parse_pickle(content: bytes, path: pathlib.Path, cifar: Cifar) -> _Batch:
    try:
        batch = _unpickle(content)
        data, ids = batch[b"data"], batch.get(b"ids")
        labels = {name: batch.get(label.key) for name, label in cifar.labels.items()}
        if not isinstance(data, np.ndarray):
            raise ValueError("b'data' is not an array")
        labels = {name: None if each is None else np.asarray(each) for name, each in labels.items()}
        if ids is not None:
            ids = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in ids]
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: is not a batch of CIFAR-10, or a damaged one ({one_line(error)})") from error
    if data.dtype != np.uint8 or data.shape[1:] not in ((3072,), (3, 32, 32), IMAGE_SHAPE) or not len(data):
        raise UserError(f"{path}: holds {data.dtype} images of shape {data.shape}: expected uint8 (size, 3072)")
    if ids is not None and len(ids) != len(data):
        raise UserError(f"{path}: holds {len(ids):,} ids: expected one per image, {len(data):,}")
    for each in labels.values():
        if each is not None and (each.shape != (len(data),) or each.dtype.kind not in "iu" or each.min() < 0):
            raise UserError(f"{path}: holds {each.dtype} labels {each.shape}: expected {len(data):,} integers from 0")
    return data if data.shape[1:] == IMAGE_SHAPE else _channels_last(data), labels, ids


def _channels_last(data: np.ndarray) -> np.ndarray:
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _unpickle(content: bytes) -> dict[Any, Any]:
    batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    # Keys are bytes in pickles of Python 2, but strings in those of Python 3.
    batch = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
    batch.setdefault(b"labels", batch.get(b"fine_labels"))  # CIFAR-100's, which has coarse ones too
    return batch


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
