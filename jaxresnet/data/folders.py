"""Reader of a user's own images: a folder of image files for each class, in ``train/`` and in ``test/``."""

import pathlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from jaxresnet.data.arrays import Arrays
from jaxresnet.data.images import read_image
from jaxresnet.system.errors import UserError

SPLITS = ("train", "test")
DECODERS = 4  # threads


def is_image_folder(folder: pathlib.Path) -> bool:
    """Return True if ``folder`` has a folder for each split."""
    return all((folder / split).is_dir() for split in SPLITS)


def load_folders(folder: pathlib.Path) -> tuple[Arrays, tuple[str, ...]]:
    """Read all images of a folder such as ``train/cat/1.png``, ``train/dog/2.jpg``, ``test/cat/3.png``.

    Classes and files are sorted by name. Names that begin with a dot are left out. Images of other sizes are cropped to
    their central square and resized to 32x32.

    Returns:
        The arrays in ``ARRAYS``, and the class names.

    Raises:
        UserError: there are fewer than two classes, they differ between the splits, one has no images, or a file cannot
            be read as an image.
    """
    names = {split: _classes_in(folder / split) for split in SPLITS}
    for split, other in (SPLITS, SPLITS[::-1]):
        if only := sorted({*names[split]} - {*names[other]}):
            raise UserError(
                f"{folder}: the class {only[0]!r} is in {split}/ and not in {other}/; every class needs images in both"
            )
    classes = names["train"]
    if len(classes) < 2:
        there = f"only {classes[0]!r}" if classes else "none"
        raise UserError(
            f"{folder / 'train'}: expected a folder of images for each of two or more classes, found {there}"
        )
    arrays: Arrays = {}
    for split in SPLITS:
        files = {name: _files_in(folder / split / name) for name in classes}
        labels = [label for label, name in enumerate(classes) for _ in files[name]]
        arrays[f"{split}_images"] = _decode([file for name in classes for file in files[name]], split)
        arrays[f"{split}_labels"] = np.array(labels, np.int32)
    return arrays, tuple(classes)


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _classes_in(folder: pathlib.Path) -> list[str]:
    for path in _inside(folder):
        if not path.is_dir():
            raise UserError(f"{path} is in no class; put it into the folder of its class, or remove it")
    return [path.name for path in _inside(folder)]


def _files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    files = _inside(folder)
    for path in files:
        if path.is_dir():
            raise UserError(f"{path} is a folder in the folder of a class; put its images into {folder}")
        if not path.is_file():  # Reading a pipe would never end.
            raise UserError(f"{path} is not a file; remove it")
    if not files:
        raise UserError(f"{folder} holds no images; every class needs some in train/ and in test/")
    return files


def _decode(files: list[pathlib.Path], split: str) -> np.ndarray:
    with ThreadPoolExecutor(DECODERS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's are redundant: read_image has notes and limits.
        decoded = pool.map(read_image, files)
        # An error ends the loop at the first file in order, and the pool then drops the rest.
        bar = tqdm(decoded, f"reading {split} images", len(files), leave=False, disable=None)
        try:
            return np.stack([pixels for pixels, _ in bar])
        except UserError as error:
            pool.shutdown(cancel_futures=True)
            raise UserError(f"{error}; nothing is skipped in training, so mend or remove it") from error
