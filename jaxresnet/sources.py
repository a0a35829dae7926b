"""Where images to predict come from: image files, folders of them, pickles, or a run's own test set."""

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

from jaxresnet.cifar10 import load_pickle
from jaxresnet.datasets import Split
from jaxresnet.errors import UserError, user_path
from jaxresnet.images import read_image

UNLABELLED = -1
NAMED = 3  # files that a note names
DECODERS = 4  # threads


class Images(NamedTuple):
    """Some images.

    Attributes:
        names: for people, such as ``cat.png`` or ``test_batch[17]``.
        ids: for a submission: the file's name without its ending, an id in a pickle, or else the position in it.
        pixels: (size, 32, 32, 3) uint8.
        labels: (size,) int32; ``UNLABELLED`` where it is not known.
    """

    names: list[str]
    ids: list[str]
    pixels: np.ndarray
    labels: np.ndarray


def find_files(paths: Sequence[str]) -> list[pathlib.Path]:
    """The files that ``paths`` name, and those in folders and below, 2.png before 10.png: each once, no hidden ones.

    Raises:
        UserError: a path that does not exist or is something else, or a folder that holds no files.
        OSError: one that cannot be read.
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
    return sorted((file for file in files if file.is_file()), key=_natural_order)


class FileReader:
    """Reads files batch by batch. What cannot be read is named on stderr, and the rest goes on.

    Attributes:
        total: how many images there are, as far as is known: a pickle counts as one until it is read.
    """

    def __init__(self, files: Sequence[pathlib.Path], num_classes: int):
        """Labels are to be below ``num_classes``."""
        self._files, self._num_classes = files, num_classes
        self._notes: dict[str, list[str]] = {}
        self.total = len(files)

    def batches(self, size: int) -> Iterator[Images]:
        """All images, up to ``size`` at a time."""
        images: list[pathlib.Path] = []
        with ThreadPoolExecutor(DECODERS) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: what matters is said in one line, and read_image has limits
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
                raise UserError(f"{file}: has labels up to {labels.max()}; the model knows {self._num_classes} classes")
        except UserError as error:
            self._fail(error)
            return
        self.total += len(pixels) - 1
        names = [f"{_printable(file)}[{position}]" for position in range(len(pixels))]
        yield from _cut(names, ids, pixels, labels, size)

    def _fail(self, error: UserError) -> None:
        self.total -= 1
        tqdm.write(f"left out: {_printable(str(error))}", file=sys.stderr)


def split_batches(split: Split, size: int) -> Iterator[Images]:
    """The images of a data set's split, up to ``size`` at a time."""
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
    """By what it is called or, as CIFAR-10's own batches have no ending, by its first byte, which no image has."""
    if file.suffix in (".pkl", ".pickle"):
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(1) == b"\x80"
    except OSError:  # reading it as an image will say why
        return False


def _printable(text: str | pathlib.Path) -> str:
    """Names of files can hold anything, line breaks and bytes of no encoding included."""
    decoded = os.fsencode(text).decode(errors="replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in decoded)


def _natural_order(path: pathlib.Path) -> list[tuple[int, int, str]]:
    """Numbers by their value."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
