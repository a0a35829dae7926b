"""Where images to predict come from: image files, folders of them, pickles, or a run's own test set."""

import collections
import pathlib
import re
import sys
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
DECODERS = 8  # threads


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
    """The files that ``paths`` name, and those in folders and below, 2.png before 10.png. Hidden ones are passed over.

    Raises:
        UserError: a path does not exist, or a folder holds no files.
    """
    files = []
    for given in paths:
        path = user_path(given)
        if path.is_dir():
            inside = [file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path))]
            if not inside:
                raise UserError(f"{given}: there are no files in this folder")
            files += sorted(inside, key=_natural_order)
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{given}: there is no such file or folder")
    return files


class FileReader:
    """Reads files batch by batch. What cannot be read is named on stderr, and the rest goes on."""

    def __init__(self, files: Sequence[pathlib.Path]):
        self._files = files
        stems = collections.Counter(file.stem for file in files)
        self._unique = max(stems.values()) == 1
        self._pickles = {file for file in files if _is_pickle(file)}
        self._notes: dict[str, list[str]] = {}

    def batch_size(self, limit: int) -> int:
        """How many images a batch is to hold, ``limit`` at most: a few files need fewer, a pickle holds many."""
        return limit if self._pickles else min(limit, len(self._files))

    def batches(self, size: int) -> Iterator[Images]:
        """All images, up to ``size`` at a time, with a progress bar on a terminal."""
        images: list[pathlib.Path] = []
        with (
            ThreadPoolExecutor(DECODERS) as pool,
            tqdm(total=len(self._files), unit=" files", disable=None, leave=False) as self._bar,
        ):
            for file in self._files:
                if file in self._pickles:
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
            self._bar.update()
            if isinstance(result, UserError):
                self._fail(result)
                continue
            read.append(file)
            pixels.append(result[0])
            for note in result[1]:
                self._notes.setdefault(note, []).append(str(file))
        if read:
            ids = [file.stem if self._unique else str(file) for file in read]
            labels = np.full(len(read), UNLABELLED, np.int32)
            yield Images([str(file) for file in read], ids, np.stack(pixels), labels)

    def _unpickle(self, file: pathlib.Path, size: int) -> Iterator[Images]:
        try:
            pixels, labels, ids = load_pickle(file)
        except UserError as error:
            self._fail(error)
            return
        finally:
            self._bar.update()
        positions = [str(position) for position in range(len(pixels))]
        names = [f"{file.name}[{position}]" for position in positions]
        if ids is None:
            ids = positions if len(self._files) == 1 else names
        yield from _cut(names, ids, pixels, labels, size)

    def _fail(self, error: UserError) -> None:
        tqdm.write(f"left out: {error}", file=sys.stderr)


def split_batches(split: Split, size: int) -> Iterator[Images]:
    """The images of a data set's split, up to ``size`` at a time."""
    ids = [str(position) for position in range(len(split))]
    yield from _cut([f"test[{position}]" for position in ids], ids, split.images, split.labels, size)


def _cut(
    names: list[str], ids: list[str], pixels: np.ndarray, labels: np.ndarray | None, size: int
) -> Iterator[Images]:
    if labels is None:
        labels = np.full(len(pixels), UNLABELLED)
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


def _is_hidden(path: pathlib.Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _natural_order(path: pathlib.Path) -> list[tuple[int, int, str]]:
    """Numbers by their value."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
