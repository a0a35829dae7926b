"""Sources of images to classify: image files, folders of them, pickles, or a run's own test set."""

import os
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from jaxresnet.data.batches import load_pickle
from jaxresnet.data.images import read_image
from jaxresnet.data.loading import Split
from jaxresnet.system.errors import UserError, user_path

UNLABELLED = -1
NAMED = 3  # files listed in a note
DECODERS = 4  # threads


class Images(NamedTuple):
    """A batch of images.

    Attributes:
        names: display names, such as ``cat.png`` or ``test_batch[17]``.
        ids: submission ids: the file's name without its ending, the id in a pickle, or else the position.
        pixels: (size, 32, 32, 3) uint8.
        labels: (size,) int32, ``UNLABELLED`` if unknown.
    """

    names: list[str]
    ids: list[str]
    pixels: np.ndarray
    labels: np.ndarray


def find_files(paths: Sequence[str]) -> list[pathlib.Path]:
    """List the files that ``paths`` name, each once.

    Folders stand for the files in and below them without hidden ones, 2.png before 10.png.

    Raises:
        UserError: a path does not exist or is neither a file nor a folder, or a folder holds no files.
        OSError: a path cannot be read.
    """
    files = []
    for given in paths:
        path = user_path(given)
        if given and path.is_dir():
            inside = _files_below(path)
            if not inside:
                raise UserError(f"{given}: there are no files in this folder")
            files += inside
        elif given and path.is_file():
            files.append(path)
        elif given and path.exists():
            raise UserError(f"{given}: is neither a file nor a folder")
        else:
            raise UserError(f"{given!r}: there is no such file or folder")
    return list({file.resolve(): file for file in reversed(files)}.values())[::-1]


def _files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    def fail(error: OSError) -> None:
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [pathlib.Path(parent, name) for name in names if not name.startswith(".")]
    for other in (file for file in files if not file.is_file()):
        print(f"skipped: {_printable(other)}: is neither a file nor a folder", file=sys.stderr)
    return sorted((file for file in files if file.is_file()), key=_natural_order)


class FileReader:
    """Reader of files in batches. Files that cannot be read are skipped with a line on stderr.

    Attributes:
        total: number of images, as far as known. A pickle counts as one until it is read.
    """

    def __init__(self, files: Sequence[pathlib.Path], num_classes: int):
        """Prepare to read ``files``, whose labels must be below ``num_classes``."""
        self._files, self._num_classes = files, num_classes
        self._notes: dict[str, list[str]] = {}
        self.total = len(files)

    def batches(self, size: int) -> Iterator[Images]:
        """Yield all images, up to ``size`` at a time."""
        images: list[pathlib.Path] = []
        with ThreadPoolExecutor(DECODERS) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's are redundant: read_image has notes and limits.
            for file in self._files:
                if _is_pickle(file):
                    yield from self._decode(images, pool)
                    images = []
                    yield from self._unpickle(file, size)
                    continue
                images.append(file)
                if len(images) == size:
                    yield from self._decode(images, pool)
                    images = []
            yield from self._decode(images, pool)
        for note, names in self._notes.items():
            others = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            print(f"note: {note}: {', '.join(names[:NAMED])}{others}", file=sys.stderr)

    def _decode(self, files: list[pathlib.Path], pool: ThreadPoolExecutor) -> Iterator[Images]:
        read, pixels = [], []
        for file, result in zip(files, pool.map(_read_or_error, files), strict=True):
            if isinstance(result, UserError):
                self._fail(result)
                continue
            read.append(file)
            pixels.append(result[0])
            for note in result[1]:
                self._notes.setdefault(note, []).append(_printable(file))
        if read:
            names, ids = [_printable(file) for file in read], [_printable(file.stem) for file in read]
            yield Images(names, ids, np.stack(pixels), np.full(len(read), UNLABELLED, np.int32))

    def _unpickle(self, file: pathlib.Path, size: int) -> Iterator[Images]:
        try:
            pixels, labels, ids = load_pickle(file)
            if labels is not None and labels.max() >= self._num_classes:
                raise UserError(f"{file}: has labels up to {labels.max()}; the model has {self._num_classes} classes")
        except UserError as error:
            self._fail(error)
            return
        self.total += len(pixels) - 1
        names = [f"{_printable(file)}[{position}]" for position in range(len(pixels))]
        yield from _cut(names, ids, pixels, labels, size)

    def _fail(self, error: UserError) -> None:
        self.total -= 1
        tqdm.write(f"skipped: {_printable(str(error))}", file=sys.stderr)


def split_batches(split: Split, size: int) -> Iterator[Images]:
    """Yield the images of a data set's split, up to ``size`` at a time."""
    names = [f"test[{position}]" for position in range(len(split))]
    yield from _cut(names, None, split.images, split.labels, size)


def _cut(
    names: list[str], ids: list[str] | None, pixels: np.ndarray, labels: np.ndarray | None, size: int
) -> Iterator[Images]:
    ids = [str(position) for position in range(len(pixels))] if ids is None else ids
    labels = np.full(len(pixels), UNLABELLED) if labels is None else labels
    for start in range(0, len(pixels), size):
        part = slice(start, start + size)
        yield Images(names[part], ids[part], pixels[part], labels[part].astype(np.int32))


def _read_or_error(file: pathlib.Path) -> tuple[np.ndarray, list[str]] | UserError:
    try:
        return read_image(file)
    except UserError as error:
        return error


def _is_pickle(file: pathlib.Path) -> bool:
    """Return True if the file's ending or first byte is that of a pickle.

    CIFAR-10's own batches have no ending. No image has this first byte.
    """
    if file.suffix in (".pkl", ".pickle"):
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(1) == b"\x80"
    except OSError:  # Reading it as an image will report the error.
        return False


def _printable(text: str | pathlib.Path) -> str:
    """Replace unprintable characters: file names can hold line breaks and bytes of no encoding."""
    decoded = os.fsencode(text).decode(errors="replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in decoded)


def _natural_order(path: pathlib.Path) -> list[tuple[int, int, str]]:
    """Return a sorting key that compares numbers by their value."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
