"""Loading of data sets. Every source ends as the same four uint8 and int32 arrays in memory."""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, UInt8

from jaxresnet.data.batches import find_batches, load_batches
from jaxresnet.data.cifar import ARRAYS, CIFAR10, IMAGE_SIZE, SETS, Arrays, Cifar, find_tfds, load_cifar, read_npz
from jaxresnet.data.images import SPLITS, holds_classes, load_folders
from jaxresnet.data.official import prepare
from jaxresnet.system.errors import UserError, one_line, user_path


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their labels, in the same order."""

    images: UInt8[np.ndarray, "size height width 3"]
    labels: Int32[np.ndarray, " size"]  # each in [0, number of classes)

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split, a name for each class, and the files of the test split if they were drawn."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    test_files: tuple[str, ...] | None = None

    def fingerprint(self) -> str:
        """Return a checksum of every image and label, in order. A resumed run must see the same data."""
        crc = 0
        for split in (self.train, self.test):
            for array in (split.images, split.labels):
                crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
        return f"{crc:08x}"

    def content(self) -> str:
        """Return a checksum of the images and their labels, in any order and split. It tells which data set it is."""
        splits = (self.train, self.test)
        crcs = (zlib.crc32(image, int(label)) for s in splits for image, label in zip(s.images, s.labels, strict=True))
        return f"{sum(crcs) % 2**32:08x}"


def load_dataset(
    name: str,
    data_dir: str | None,
    num_classes: int,
    image_size: int = IMAGE_SIZE,
    test_files: int | Sequence[str] = 0,
) -> Dataset:
    """Read a whole data set into memory.

    Args:
        name: ``"cifar10"``, ``"cifar100"``, or ``"digits"`` for scikit-learn's 1,797 handwritten digits, without any
            files.
        data_dir: source of the images, unless digits: a tfds folder, an official archive or its unpacked folder, a
            folder of images by class (see ``find_images``), or a ``.npz`` file with the arrays in ``ARRAYS`` and, if
            the classes have names, ``class_names``. ``None`` means tfds's own folder (see ``prepare``).
        num_classes: number of classes of the model. Labels must be smaller.
        image_size: height and width of the images. Files in folders are resized to it.
        test_files: seed that draws the test images of a folder without ``test/``, or their names.

    Raises:
        UserError: the data are missing, damaged, or of another kind.
        OSError: a file may not be read, or is missing in an unpacked archive.
    """
    names, drawn = None, None  # Digits are named by their numbers.
    if name not in (*SETS, "digits"):
        raise UserError(f"dataset.name={name!r}: expected one of {', '.join([*SETS, 'digits'])}")
    if data_dir is None and image_size != IMAGE_SIZE:
        raise UserError(f"dataset.image_size={image_size}: images of {name} have {IMAGE_SIZE}; only files are resized")
    if data_dir is not None:
        arrays, names, drawn = _load_from(data_dir, SETS.get(name, CIFAR10), image_size, test_files)
    elif name == "digits":
        arrays = _load_digits()
    else:
        arrays, names = load_cifar(SETS[name], prepare(SETS[name]))
    origin = data_dir or name
    if names is not None and len(names) != num_classes:
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise UserError(
            f"{origin} has {len(names)} classes ({shown}), but model.num_classes={num_classes}; give "
            f"--config.model.num_classes={len(names)}"
        )
    train, test = (_checked_split(arrays, split, origin, num_classes, image_size) for split in SPLITS)
    return Dataset(train, test, names or tuple(map(str, range(num_classes))), drawn)


def _load_from(
    data_dir: str, cifar: Cifar, size: int, test: int | Sequence[str]
) -> tuple[Arrays, tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return arrays, class names if there are any, and test files if they were drawn."""
    path = user_path(data_dir)
    if not os.path.exists(path):  # False for a path that is too long, too
        raise UserError(f"dataset.data_dir={data_dir!r} does not exist; give the path of the data")
    if path.is_file() and path.suffix in (".gz", ".tgz"):
        return *load_cifar(cifar, prepare(cifar, path)), None
    if path.is_file():
        return *_load_npz(path), None
    if folder := find_tfds(path, cifar.name):
        return *load_cifar(cifar, folder), None
    if batches := find_batches(path, cifar):
        return *load_batches(cifar, *batches), None
    if any((path / split).is_dir() for split in SPLITS) or holds_classes(path):
        return load_folders(path, size, test)
    raise UserError(
        f"dataset.data_dir={data_dir!r} holds no {cifar.name} and no images by class: expected a tfds folder with "
        f"{cifar.name}/ in it, {cifar.archives[0].name} or its {cifar.archives[0].folder} folder, a folder with CLASS/ "
        f"or with train/CLASS/ and test/CLASS/, or a .npz file with {', '.join(ARRAYS)}"
    )


def _load_npz(path: pathlib.Path) -> tuple[Arrays, tuple[str, ...] | None]:
    try:
        arrays = read_npz(path)
        names = arrays.pop("class_names", None)
        return arrays, None if names is None else tuple(map(str, names))
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is not a .npz file of {', '.join(ARRAYS)}, or damaged ({one_line(error)})") from error


def hold_out(split: Split, size: int) -> tuple[Split, Split]:
    """Divide a split into one for training and one of ``size`` images for validation.

    The choice is random but always the same, so that runs with different seeds can be compared.

    Raises:
        UserError: ``size`` is not between 1 and the split's size - 1.
    """
    if not 0 < size < len(split):
        raise UserError(
            f"dataset.validation_size={size}: expected 0 (none), or fewer than the {len(split):,} training images"
        )
    held_out = np.zeros(len(split), bool)
    # RandomState's stream is frozen by NumPy's compatibility policy; default_rng's is not.
    held_out[np.random.RandomState(0).permutation(len(split))[:size]] = True
    train, validation = (Split(split.images[part], split.labels[part]) for part in (~held_out, held_out))
    return train, validation


def _load_digits() -> Arrays:
    # Imported here because only the quick start uses it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 8x8 pixels of 0 to 16
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=-1)
    split = train_test_split(images, digits.target, test_size=360, random_state=0, stratify=digits.target)
    return dict(zip(("train_images", "test_images", "train_labels", "test_labels"), split, strict=True))


def _checked_split(arrays: Arrays, split: str, origin: str, num_classes: int, size: int) -> Split:
    images, labels, origin = arrays[f"{split}_images"], arrays[f"{split}_labels"], f"{origin}, {split}"
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or not len(images):
        raise UserError(
            f"{origin} images are {images.dtype} of shape {images.shape}: expected uint8 of shape (any size, {size}, "
            f"{size}, 3), as set by dataset.image_size"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        wanted = f"integers of shape ({len(images)},)"
        raise UserError(f"{origin} labels are {labels.dtype} of shape {labels.shape}: expected {wanted}")
    if labels.min() < 0 or labels.max() >= num_classes:
        wanted = f"0 to {num_classes - 1}, as set by model.num_classes"
        raise UserError(f"{origin} labels go from {labels.min()} to {labels.max()}: expected {wanted}")
    return Split(images, labels.astype(np.int32))
