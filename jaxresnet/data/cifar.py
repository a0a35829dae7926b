"""CIFAR-10 and CIFAR-100: what they are, and their records as tfds stores them.

Images are returned in the order of the official archive, so that a run does not depend on their source.
"""

import contextlib
import hashlib
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from jaxresnet.data.arrays import ARRAYS, IMAGE_SHAPE, Arrays, read_npz
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.system.files import cache_folder

NUM_TRAIN, NUM_TEST = 50_000, 10_000
READ_AT_ONCE = 1000  # tfds records per read


class Cifar(NamedTuple):
    """A data set, and its official archive.

    Attributes:
        name: tfds's name.
        title: name in messages.
        url: address of the archive.
        sha256: hash of the archive.
        folder: folder in the archive.
        train_files: files of the training split, in order.
        test_files: files of the test split.
        num_classes: number of classes, by tfds's name of each byte before an image. ``label`` is used.
        class_names_files: files with a class name on each line, likewise.
        fingerprint: expected ``Dataset.fingerprint``, or None if it was not measured.
    """

    name: str
    title: str
    url: str
    sha256: str
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    num_classes: dict[str, int]
    class_names_files: dict[str, str]
    fingerprint: str | None


# The hashes are those of tfds.
CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test_files=("test_batch.bin",),
    num_classes={"label": 10},
    class_names_files={"label": "batches.meta.txt"},
    fingerprint="40b61ab6",
)
CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    folder="cifar-100-binary",
    train_files=("train.bin",),
    test_files=("test.bin",),
    num_classes={"coarse_label": 20, "label": 100},
    class_names_files={"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
    fingerprint=None,
)
SETS = {each.name: each for each in (CIFAR10, CIFAR100)}


def default_tfds_root() -> pathlib.Path:
    """Return the tfds data folder: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_tfds(path: pathlib.Path, name: str = "cifar10") -> pathlib.Path | None:
    """Return the newest prepared version in the tfds folder ``path``, ``path`` itself if it is one, or None."""
    if path.parent.name == name and (path / "dataset_info.json").is_file():
        return path
    versions = [
        info.parent
        for info in path.glob(f"{name}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)  # tfds names incomplete folders differently
    ]
    return max(versions, key=lambda version: [int(part) for part in version.name.split(".")], default=None)


def load_tfds(folder: pathlib.Path, cifar: Cifar) -> tuple[Arrays, tuple[str, ...]]:
    """Read a data set from a tfds version folder.

    Decoding 60,000 PNGs takes about 10 s, so the arrays are cached in $XDG_CACHE_HOME or ~/.cache for the next start.

    Returns:
        The arrays in ``ARRAYS``: images (size, 32, 32, 3) uint8 and labels (size,) int32. And the class names.

    Raises:
        UserError: the records are not array_record files, or are damaged or incomplete.
    """
    records = sorted(folder.glob("*.array_record*"))
    if not records:
        raise UserError(
            f"{folder}: holds no array_record files (reading tfrecord files needs TensorFlow). To prepare it in "
            "another folder, set TFDS_DATA_DIR to it and leave dataset.data_dir unset"
        )
    cache = _cache_file(records, cifar)
    arrays = _read_cache(cache)
    if arrays is None:
        arrays = _decode_tfds(folder, cifar)
        _write_cache(cache, arrays)
    return arrays, _read_class_names(folder / "label.labels.txt", cifar)


def _read_class_names(path: pathlib.Path, cifar: Cifar) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Delete its folder and prepare {cifar.title} again"
        ) from error
    if len(names) != cifar.num_classes["label"]:
        raise UserError(f"{path} holds {len(names)} class names. Delete its folder and prepare {cifar.title} again")
    return names


def _decode_tfds(folder: pathlib.Path, cifar: Cifar) -> Arrays:
    # Imported here because it takes a second and cached arrays do not need it.
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    # features.json is not used, because its reader imports any module that the file names.
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=IMAGE_SHAPE),
            **{label: tfds.features.ClassLabel(num_classes=count) for label, count in cifar.num_classes.items()},
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
                for start in tqdm(starts, f"decoding {cifar.title}'s {split} images, once", leave=False, disable=None):
                    for record in source.__getitems__(range(start, min(start + READ_AT_ONCE, count))):
                        example = features.deserialize_example_np(record)
                        # tfds shuffles the records. Their ids, such as train_00042, give the official order.
                        index = int(example["id"].decode().removeprefix(f"{split}_"))
                        if example["image"].shape != IMAGE_SHAPE:  # NumPy might broadcast it
                            raise ValueError(f"an image has shape {example['image'].shape}")
                        images[index], labels[index] = example["image"], example["label"]
        except Exception as error:  # array_record, protobuf and Pillow raise their own types
            raise UserError(
                f"{folder}: {split} cannot be read ({one_line(error)}). Delete the folder and prepare {cifar.title} "
                "again"
            ) from error
        if count != size or labels.min() < 0:
            raise UserError(
                f"{folder}: {split} holds {np.sum(labels >= 0):,} of {cifar.title}'s {size:,} images. Delete the "
                f"folder and prepare {cifar.title} again"
            )
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return arrays


def _cache_file(records: list[pathlib.Path], cifar: Cifar) -> pathlib.Path:
    """Return a cache file named after the records' paths, sizes and times, so that changed files are decoded again."""
    identity = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in records]
    return cache_folder() / f"{cifar.name}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.npz"


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
