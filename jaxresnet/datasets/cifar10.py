"""Readers of CIFAR-10 as other tools store it: tfds records, and the pickled batches that PyTorch users have.

``load_tfds`` and ``load_batches`` return train_images (50000, 32, 32, 3) uint8, train_labels (50000,), test_images and
test_labels. Both follow the order of the official archive, so that a run does not depend on the source of its images.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from jaxresnet.datasets.unpickle import to_array, unpickle
from jaxresnet.system.atomic_files import cache_folder
from jaxresnet.system.errors import UserError, one_line

NUM_TRAIN, NUM_TEST = 50_000, 10_000
IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = 10
# Expected ``Dataset.fingerprint`` of the whole data set.
FINGERPRINT = "40b61ab6"
BATCHES_FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
READ_AT_ONCE = 1000  # tfds records per read

# Array names of a data set, in every source and in .npz files.
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
Arrays = dict[str, np.ndarray]


def read_npz(path: pathlib.Path, names: Sequence[str]) -> Arrays:
    """Read the named arrays of a .npz file and verify their checksums.

    Raises:
        Exception: many types, if the file is damaged or holds something else.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as entry:
                arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
                # The checksum is verified only at the end of an entry, but np.load stops where the header says.
                if entry.read(1):
                    raise ValueError(f"{name} is longer than its header says")
    return arrays


def default_tfds_root() -> pathlib.Path:
    """Return the tfds data folder: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_tfds(path: pathlib.Path) -> pathlib.Path | None:
    """Return the newest prepared CIFAR-10 in the tfds folder ``path``, ``path`` itself if it is one, or None."""
    if path.parent.name == "cifar10" and (path / "dataset_info.json").is_file():
        return path
    versions = [
        info.parent
        for info in path.glob("cifar10/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)  # tfds names incomplete folders differently
    ]
    return max(versions, key=lambda version: [int(part) for part in version.name.split(".")], default=None)


def load_tfds(folder: pathlib.Path) -> Arrays:
    """Read CIFAR-10 from a tfds version folder.

    Decoding 60,000 PNGs takes about 10 s, so the arrays are cached in $XDG_CACHE_HOME or ~/.cache for the next start.

    Raises:
        UserError: the records are not array_record files, or are damaged or incomplete.
    """
    records = sorted(folder.glob("*.array_record*"))
    if not records:
        raise UserError(
            f"{folder}: holds no array_record files (reading tfrecord files needs TensorFlow). To prepare CIFAR-10 "
            "in another folder, set TFDS_DATA_DIR to it and leave dataset.data_dir unset"
        )
    cache = _cache_file(records)
    arrays = _read_cache(cache)
    if arrays is None:
        arrays = _decode_tfds(folder)
        _write_cache(cache, arrays)
    return arrays


def _decode_tfds(folder: pathlib.Path) -> Arrays:
    # Imported here because it takes a second and cached arrays do not need it.
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    # features.json is not used, because its reader imports any module that the file names.
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=IMAGE_SHAPE),
            "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
        }
    )
    arrays: Arrays = {}
    for split, size in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        images = np.zeros((size, *IMAGE_SHAPE), np.uint8)
        labels = np.full(size, -1, np.int32)
        try:
            with ArrayRecordDataSource(sorted(folder.glob(f"*-{split}.array_record*"))) as source:
                count = len(source)
                starts = range(0, count, READ_AT_ONCE)
                for start in tqdm(starts, f"decoding CIFAR-10's {split} images, once", leave=False, disable=None):
                    for record in source.__getitems__(range(start, min(start + READ_AT_ONCE, count))):
                        example = features.deserialize_example_np(record)
                        # tfds shuffles the records. Their ids, such as train_00042, give the official order.
                        index = int(example["id"].decode().removeprefix(f"{split}_"))
                        if example["image"].shape != IMAGE_SHAPE:  # NumPy might broadcast it
                            raise ValueError(f"an image has shape {example['image'].shape}")
                        images[index], labels[index] = example["image"], example["label"]
        except Exception as error:  # array_record, protobuf and Pillow raise their own types
            raise UserError(
                f"{folder}: {split} cannot be read ({one_line(error)}). Delete the folder and prepare CIFAR-10 again"
            ) from error
        if count != size or labels.min() < 0:
            raise UserError(
                f"{folder}: {split} holds {np.sum(labels >= 0):,} of CIFAR-10's {size:,} images. Delete the "
                "folder and prepare CIFAR-10 again"
            )
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return arrays


def _cache_file(records: list[pathlib.Path]) -> pathlib.Path:
    """Return a cache file named after the records' paths, sizes and times, so that changed files are decoded again."""
    identity = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in records]
    return cache_folder() / f"cifar10-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.npz"


def _read_cache(cache: pathlib.Path) -> Arrays | None:
    try:
        arrays = read_npz(cache, ARRAYS)
    except Exception:  # missing, or damaged in any way: the caller rebuilds it
        return None
    for split, size in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.shape != (size, *IMAGE_SHAPE):
            return None
        if labels.dtype != np.int32 or labels.shape != (size,):
            return None
    return arrays


def _write_cache(cache: pathlib.Path, arrays: Arrays) -> None:
    temporary = cache.with_suffix(f".{os.getpid()}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(cache)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        tqdm.write(
            f"note: the decoded images could not be kept in {cache.parent} ({error}). The next start decodes them again"
        )


def find_batches(path: pathlib.Path) -> pathlib.Path | None:
    """Return ``path`` or its ``cifar-10-batches-py``, the first that holds a pickled batch, or None."""
    for folder in (path, path / BATCHES_FOLDER):
        if any((folder / name).is_file() for name in (*TRAIN_BATCHES, TEST_BATCH)):
            return folder
    return None


def load_batches(folder: pathlib.Path) -> Arrays:
    """Read the official pickled batches of 10,000 images each.

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
    if len(batch.images) != NUM_TEST or batch.labels is None:
        raise UserError(
            f"{path}: holds {len(batch.images):,} images and {'no ' if batch.labels is None else ''}labels: expected "
            f"{NUM_TEST:,} of each"
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
