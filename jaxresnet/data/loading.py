"""Loading of data sets. Every source ends as the same four uint8 and int32 arrays in memory."""

import dataclasses
import functools
import pathlib
import sys
import zlib

import numpy as np
from jaxtyping import Int32, UInt8

from jaxresnet.data import batches, cifar, folders
from jaxresnet.data.arrays import ARRAYS, IMAGE_SHAPE, Arrays, load_npz
from jaxresnet.system.errors import UserError, choose, user_path

NUM_DIGITS_TEST = 360

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DIGITS = tuple("0123456789")
_Source = tuple[Arrays, tuple[str, ...] | None, bool]  # arrays, class names if any, True for a user's own classes


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
    """A training and a test split.

    Attributes:
        train: training split.
        test: test split.
        class_names: one name per class.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]

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
        name: ``"cifar10"``, ``"cifar100"``, or ``"digits"`` for scikit-learn's 1,797 handwritten digits, without any
            files.
        data_dir: source of the images, unless digits: a tfds folder, a ``cifar-10-batches-py`` folder, a folder of
            images by class (see ``load_folders``), or a ``.npz`` file (see ``load_npz``). ``None`` means tfds's own
            folder ($TFDS_DATA_DIR, or ~/tensorflow_datasets). If the data set is missing there, it is downloaded and
            prepared first.
        num_classes: number of classes of the model. Labels must be smaller.

    Raises:
        UserError: the data are missing, damaged, or of another kind.
    """
    source: _Source
    if name == "digits":
        if data_dir is not None:
            raise UserError(
                f"dataset.data_dir={data_dir!r}: the digits come with scikit-learn; leave data_dir unset, or give "
                "--config.dataset.name=cifar10 for images of your own"
            )
        source, origin = (_load_digits(), _DIGITS, False), "scikit-learn's digits"
    elif name not in cifar.SETS:
        raise UserError(f"dataset.name={name!r}: expected one of {', '.join([*cifar.SETS, 'digits'])}")
    elif data_dir is None:
        root = cifar.default_tfds_root()
        source, origin = _load_prepared(cifar.SETS[name], root), str(root)
    else:
        source, origin = _load_from(data_dir, cifar.SETS[name]), data_dir
    arrays, names, is_own = source
    if names is not None and is_own:
        _check_class_names(names, origin, num_classes)
    train, test = (
        _checked_split(arrays[f"{split}_images"], arrays[f"{split}_labels"], f"{origin}, {split}", num_classes)
        for split in ("train", "test")
    )
    dataset = Dataset(train, test, names if names and len(names) == num_classes else _numbers(num_classes))
    if name == "cifar10":
        dataset = _compared_with_cifar10(dataset, names)
    return dataset


def _numbers(num_classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(num_classes)))


def usual_class_names(name: str, num_classes: int) -> tuple[str, ...]:
    """Return the class names of a run that has recorded none: its data set's, or numbers if these do not fit.

    Raises:
        UserError: the data set is unknown.
    """
    known = {"cifar10": CIFAR10_CLASSES, "cifar100": (), "digits": _DIGITS}
    names = choose(known, "dataset.name", name)
    return names if len(names) == num_classes else _numbers(num_classes)


def _check_class_names(names: tuple[str, ...], origin: str, num_classes: int) -> None:
    if len({*names}) < len(names) or not all(name.strip() and name.isprintable() for name in names):
        raise UserError(
            f"{origin}: invalid class names {', '.join(map(repr, names))}; expected a different text for each"
        )
    if len(names) != num_classes:
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise UserError(
            f"{origin} has {len(names)} classes ({shown}), but model.num_classes={num_classes}; give "
            f"--config.model.num_classes={len(names)}"
        )


def _compared_with_cifar10(dataset: Dataset, names: tuple[str, ...] | None) -> Dataset:
    """Name the classes of a .npz file that holds CIFAR-10. Note if data of its size are not CIFAR-10's own."""
    as_many = (len(dataset.train), len(dataset.test)) == (cifar.NUM_TRAIN, cifar.NUM_TEST)
    expected = cifar.SETS["cifar10"].fingerprint
    if not as_many:
        return dataset
    if dataset.fingerprint() == expected:
        has_ten = len(dataset.class_names) == len(CIFAR10_CLASSES)
        return dataclasses.replace(dataset, class_names=CIFAR10_CLASSES) if has_ten and not names else dataset
    if names in (None, CIFAR10_CLASSES):  # the pickled batches have no checksum of their own
        print(
            f"note: these images and labels are not CIFAR-10's own (checksum {dataset.fingerprint()}, expected "
            f"{expected}). If they should be, unpack the archive again",
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


def _load_prepared(which: cifar.Cifar, root: pathlib.Path) -> _Source:
    """Read a data set from tfds's own folder. Prepare it first if it is missing."""
    folder = cifar.find_tfds(root, which.name)
    if folder is None:
        # Imported here because only a first run needs it.
        from jaxresnet.data import download

        download.prepare(root, which)
        folder = cifar.find_tfds(root, which.name)
        assert folder is not None, root  # it has just been prepared
    return *cifar.load_tfds(folder, which), False


def _load_from(data_dir: str, which: cifar.Cifar) -> _Source:
    path = user_path(data_dir)
    try:
        path.stat()
    except OSError as error:
        raise UserError(f"dataset.data_dir={data_dir!r} does not exist or cannot be read ({error.strerror})") from error
    if path.is_file():
        return *load_npz(path), True
    if tfds_folder := cifar.find_tfds(path, which.name):
        return *cifar.load_tfds(tfds_folder, which), False
    if which.name == "cifar10" and (batches_folder := batches.find_batches(path)):
        return batches.load_batches(batches_folder), CIFAR10_CLASSES, False
    if folders.is_image_folder(path):
        return *folders.load_folders(path), True
    if there := [split for split in folders.SPLITS if (path / split).is_dir()]:
        (missing,) = {*folders.SPLITS} - {*there}
        raise UserError(f"dataset.data_dir={data_dir!r} holds {there[0]}/ and no {missing}/; images are needed in both")
    raise UserError(
        f"dataset.data_dir={data_dir!r} holds no {which.title} and no images by class: expected a tfds folder with "
        f"{which.name}/ in it, a {batches.BATCHES_FOLDER} folder, a folder with train/CLASS/ and test/CLASS/, or a "
        f".npz file with {', '.join(ARRAYS)}"
    )


def _load_digits() -> Arrays:
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
