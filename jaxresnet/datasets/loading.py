"""Loading of data sets. Every source ends as the same four uint8 and int32 arrays in memory."""

import dataclasses
import functools
import pathlib
import sys
import zipfile
import zlib

import numpy as np
from jaxtyping import Int32, UInt8

from jaxresnet.datasets import cifar10
from jaxresnet.datasets.cifar10 import ARRAYS, IMAGE_SHAPE
from jaxresnet.system.errors import UserError, choose, one_line, user_path

NUM_DIGITS_TEST = 360

_CLASS_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "digits": tuple("0123456789"),
}


def class_names(name: str, num_classes: int) -> tuple[str, ...]:
    """Return the class names of a data set, or numbers if it does not have ``num_classes`` classes.

    Raises:
        UserError: the data set is unknown.
    """
    names = choose(_CLASS_NAMES, "dataset.name", name)
    return names if len(names) == num_classes else tuple(str(label) for label in range(num_classes))


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their labels, in the same order.

    Attributes:
        images: (size, height, width, 3) uint8.
        labels: (size,) int32, each in [0, number of classes).
    """

    images: UInt8[np.ndarray, "size height width 3"]
    labels: Int32[np.ndarray, " size"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split."""

    train: Split
    test: Split

    def fingerprint(self) -> str:
        """Return a checksum of every image and label, in order. A resumed run must see the same data."""
        return self._checksum

    @functools.cached_property
    def _checksum(self) -> str:
        crc = 0
        for split in (self.train, self.test):
            for array in (split.images, split.labels):
                crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
        return f"{crc:08x}"


def load_dataset(name: str, data_dir: str | None, num_classes: int) -> Dataset:
    """Read a whole data set into memory.

    Args:
        name: ``"cifar10"``, or ``"digits"`` for scikit-learn's 1,797 handwritten digits, without any files.
        data_dir: source of CIFAR-10: a tfds folder, a ``cifar-10-batches-py`` folder, or a ``.npz`` file with the
            entries in ``ARRAYS``. ``None`` means tfds's own folder ($TFDS_DATA_DIR, or ~/tensorflow_datasets). If
            CIFAR-10 is missing there, it is downloaded and prepared first.
        num_classes: upper limit of the labels, exclusive.

    Raises:
        UserError: the data are missing, damaged, or of another kind.
    """
    if name == "cifar10":
        arrays, origin = _load_cifar10(data_dir)
    elif name == "digits":
        if data_dir is not None:
            raise UserError(f"dataset.data_dir={data_dir!r}: the digits come with scikit-learn; leave data_dir unset")
        arrays, origin = _load_digits(), "scikit-learn's digits"
    else:
        raise UserError(f"dataset.name={name!r}: expected one of {', '.join(_CLASS_NAMES)}")
    splits = [
        _checked_split(arrays[f"{split}_images"], arrays[f"{split}_labels"], f"{origin}, {split}", num_classes)
        for split in ("train", "test")
    ]
    dataset = Dataset(*splits)
    # The pickled batches have no checksum of their own. Data of another size are not meant to be CIFAR-10.
    as_many = (len(dataset.train), len(dataset.test)) == (cifar10.NUM_TRAIN, cifar10.NUM_TEST)
    if name == "cifar10" and as_many and dataset.fingerprint() != cifar10.FINGERPRINT:
        print(
            f"note: these images and labels are not CIFAR-10's own (checksum {dataset.fingerprint()}, expected "
            f"{cifar10.FINGERPRINT}). If they should be, unpack the archive again",
            file=sys.stderr,
        )
    return dataset


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
    return (
        Split(split.images[~held_out], split.labels[~held_out]),
        Split(split.images[held_out], split.labels[held_out]),
    )


def _load_cifar10(data_dir: str | None) -> tuple[dict[str, np.ndarray], str]:
    if data_dir is None:
        root = cifar10.default_tfds_root()
        folder = cifar10.find_tfds(root)
        if folder is None:
            # Imported here because only a first run needs it.
            from jaxresnet.datasets import download

            download.prepare(root)
            folder = cifar10.find_tfds(root)
            assert folder is not None, root  # it has just been prepared
        return cifar10.load_tfds(folder), str(root)

    path = user_path(data_dir)
    try:
        path.stat()
    except OSError as error:
        raise UserError(f"dataset.data_dir={data_dir!r} does not exist or cannot be read ({error.strerror})") from error
    if path.is_file():
        return _load_npz(path), data_dir
    tfds_dir, batches_dir = cifar10.find_tfds(path), cifar10.find_batches(path)
    if tfds_dir:
        return cifar10.load_tfds(tfds_dir), data_dir
    if batches_dir:
        return cifar10.load_batches(batches_dir), data_dir
    raise UserError(
        f"dataset.data_dir={data_dir!r} holds no CIFAR-10: expected a tfds folder with cifar10/ in it, a "
        f"cifar-10-batches-py folder, or a .npz file with {', '.join(ARRAYS)}"
    )


def _load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            held = archive.namelist()
        missing = [name for name in ARRAYS if f"{name}.npy" not in held]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}; a data set needs {', '.join(ARRAYS)}")
        return cifar10.read_npz(path, ARRAYS)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is not a .npz file, or is damaged ({one_line(error)})") from error


def _load_digits() -> dict[str, np.ndarray]:
    # Imported here because only the quick start uses it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 8x8 pixels of 0 to 16
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=-1)
    split = train_test_split(images, digits.target, test_size=NUM_DIGITS_TEST, random_state=0, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = split
    return dict(zip(ARRAYS, (train_images, train_labels, test_images, test_labels), strict=True))


def _checked_split(images: np.ndarray, labels: np.ndarray, origin: str, num_classes: int) -> Split:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != IMAGE_SHAPE or not len(images):
        raise UserError(
            f"{origin} images are {images.dtype} of shape {images.shape}: expected uint8 of shape "
            f"(any size, {', '.join(map(str, IMAGE_SHAPE))})"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(
            f"{origin} labels are {labels.dtype} of shape {labels.shape}: expected integers of shape ({len(images)},)"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"{origin} labels go from {labels.min()} to {labels.max()}: expected 0 to {num_classes - 1}, as set "
            "by model.num_classes"
        )
    return Split(images, labels.astype(np.int32))
