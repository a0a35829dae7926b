"""Official files of CIFAR-10 and CIFAR-100, pickled or binary, and pickled images of courses."""

import io
import pathlib
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxresnet.data import cifar as sets
from jaxresnet.data.cifar import CIFAR10, CIFAR10_CLASSES, IMAGE_SHAPE, Archive, Arrays, Cifar
from jaxresnet.system.errors import UserError, one_line


class PickledImages(NamedTuple):
    """Images (size, 32, 32, 3) uint8, and their labels (size,) and the file's names of them, or None without any."""

    images: np.ndarray
    labels: np.ndarray | None
    ids: list[str] | None


def find_batches(path: pathlib.Path, cifar: Cifar) -> tuple[pathlib.Path, Archive] | None:
    """Return ``path`` or the folder in it that holds batches of an official archive, and that archive, or None."""
    for archive in cifar.archives:
        for folder in (path, path / archive.folder):
            if any((folder / file).is_file() for split in cifar.batches for file in _files(cifar, archive, split)):
                return folder, archive
    return None


def load_batches(cifar: Cifar, folder: pathlib.Path, archive: Archive) -> tuple[Arrays, tuple[str, ...]]:
    """Read an unpacked archive, in its order.

    Returns:
        The arrays in ``ARRAYS``: images (size, 32, 32, 3) uint8 and labels (size,). And the class names.

    Raises:
        UserError: a file is damaged.
        OSError: a file is missing or may not be read.
    """
    arrays: Arrays = {}
    for split in cifar.batches:
        images, labels = read_split(cifar, archive, split, lambda name: (folder / name).read_bytes(), folder)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels["label"]}
    return arrays, tuple(read_names(cifar, archive, "label", lambda name: (folder / name).read_bytes()))


def read_split(
    cifar: Cifar, archive: Archive, split: str, read: Callable[[str], bytes], folder: pathlib.Path
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read the batches of a split with ``read``, which returns the content of a file of ``folder``.

    Returns:
        Images (size, 32, 32, 3) uint8, and labels (size,) by tfds's names of them.

    Raises:
        UserError: a batch is missing or damaged.
    """
    files = _files(cifar, archive, split)
    size = (sets.NUM_TRAIN if split == "train" else sets.NUM_TEST) // len(files)
    parts = []
    for file in files:
        parse = _parse_binary if "binary" in archive.name else _parse_pickle
        images, labels, _ = parse(read(file), folder / file, tuple(cifar.labels))
        if len(images) != size or len(labels) < len(cifar.labels):
            raise UserError(f"{folder / file}: holds {len(images):,} images: expected {size:,} with labels")
        parts.append((images, labels))
    labels = {name: np.concatenate([labels[name] for _, labels in parts]) for name in cifar.labels}
    return np.concatenate([images for images, _ in parts]), labels


def read_names(cifar: Cifar, archive: Archive, label: str, read: Callable[[str], bytes]) -> Sequence[str]:
    """Return the class names of a label. Those of CIFAR-100 are read from the archive's files with ``read``."""
    if cifar.name == CIFAR10.name:
        return CIFAR10_CLASSES
    if "binary" in archive.name:
        return read(f"fine_{label}_names.txt".replace("fine_coarse", "coarse")).decode().split()
    return [name.decode() for name in _unpickle(read("meta"))[f"{label}_names".encode()]]


def _files(cifar: Cifar, archive: Archive, split: str) -> list[str]:
    return [f"{name}.bin" if "binary" in archive.name else name for name in cifar.batches[split]]


def load_pickle(path: pathlib.Path) -> PickledImages:
    """Read images from a pickled dictionary, such as a batch of CIFAR-10.

    ``b"data"`` is uint8 of shape (size, 3072) as in CIFAR-10's own batches, (size, 3, 32, 32) or (size, 32, 32, 3).
    ``b"labels"`` (CIFAR-100: ``b"fine_labels"``) and ``b"ids"`` are optional. Other entries are ignored.

    Raises:
        UserError: the file is damaged, holds something else, or calls anything but NumPy's constructors.
    """
    images, labels, ids = _parse_pickle(path.read_bytes(), path, ("label",))
    return PickledImages(images, labels.get("label"), ids)


_Batch = tuple[np.ndarray, dict[str, np.ndarray], list[str] | None]  # images, labels that there are, and ids


def _parse_binary(content: bytes, path: pathlib.Path, kinds: tuple[str, ...]) -> _Batch:
    width = len(kinds) + 3072
    if len(content) % width:
        raise UserError(f"{path}: holds {len(content):,} bytes: expected a multiple of {width:,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, width)
    images = records[:, len(kinds) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, dict(zip(kinds, records.T, strict=False)), None


def _parse_pickle(content: bytes, path: pathlib.Path, kinds: tuple[str, ...]) -> _Batch:
    try:
        batch = _unpickle(content)
        data, ids = batch[b"data"], batch.get(b"ids")
        if not isinstance(data, np.ndarray):
            raise ValueError("b'data' is not an array")
        found = {kind: batch.get(f"{kind}s".encode()) for kind in kinds}
        labels = {kind: np.asarray(values) for kind, values in found.items() if values is not None}
        if ids is not None:
            ids = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in ids]
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: is not a batch of CIFAR-10, or a damaged one ({one_line(error)})") from error
    if data.dtype != np.uint8 or data.shape[1:] not in ((3072,), (3, 32, 32), IMAGE_SHAPE) or not len(data):
        raise UserError(f"{path}: holds {data.dtype} images of shape {data.shape}: expected uint8 (size, 3072)")
    for each in labels.values():
        if each.shape != (len(data),) or each.dtype.kind not in "iu" or each.min() < 0:
            raise UserError(f"{path}: holds {each.dtype} labels {each.shape}: expected {len(data):,} integers from 0")
    if data.shape[1:] != IMAGE_SHAPE:
        data = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return data, labels, ids


def _unpickle(content: bytes) -> dict[Any, Any]:
    batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    # Keys are bytes in pickles of Python 2, but strings in those of Python 3.
    batch = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
    # CIFAR-100 calls its labels fine_labels.
    return {key.removeprefix(b"fine_") if isinstance(key, bytes) else key: value for key, value in batch.items()}


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
