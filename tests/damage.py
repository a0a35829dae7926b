"""Damaged copies of files, a check of their readers, and a small CIFAR-10 to damage."""

import contextlib
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from jaxresnet.data import cifar, loading, official
from jaxresnet.system.errors import UserError
from tests.data.test_loading import official_archive

DAMAGED = "damaged or random data files answered in one line or read rightly"
REFUSED = "files built to execute code, refused"


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Draw random bytes, or ``content`` that is truncated or has bytes changed, zeroed, removed or inserted."""
    # Headers are few of many bytes and stand at both ends, so places near the ends are drawn more often.
    last = len(content) - 1
    ends = min(last, 400)
    places = st.integers(0, last) | st.integers(0, ends) | st.integers(last - ends, last)
    kind = draw(st.sampled_from(["random", "truncated", "changed", "changed", "zeroed", "left out", "put in"]))
    if kind == "random":
        return draw(st.binary(max_size=2000))
    place = draw(places)
    if kind == "truncated":
        return content[:place]
    if kind == "changed":
        changed = bytearray(content)
        for each in [place, *draw(st.lists(places, max_size=4))]:
            changed[each] = draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
        return bytes(changed)
    size = draw(st.sampled_from([1, 2, 4, 8, 60]))
    put_in = {"zeroed": bytes(size), "left out": b"", "put in": draw(st.binary(min_size=1, max_size=size))}[kind]
    return content[:place] + put_in + content[place if kind == "put in" else place + size :]


def read_or_refuse(read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what ``read`` returns, or None if it refuses in one line. Any other exception fails the test."""
    try:
        return read(*arguments)
    except UserError as error:
        assert "\n" not in str(error)
        return None


@contextlib.contextmanager
def few_images() -> Iterator[None]:
    """Give CIFAR-10 three images per batch, so that thousands of damaged copies are read quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "NUM_TRAIN", 15)
        patch.setattr(cifar, "NUM_TEST", 3)
        yield


def replace(path: pathlib.Path, content: bytes) -> None:
    """Replace a file, or a link to one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


class Calls:
    """An object whose pickle calls ``function(*arguments)`` when loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


RNG = np.random.default_rng(0)
TRAIN_BATCHES, (TEST_BATCH,) = cifar.CIFAR10.batches.values()
BATCHES = (*TRAIN_BATCHES, TEST_BATCH)
IMAGES = {name: RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for name in BATCHES}
LABELS = {name: RNG.integers(0, 10, 3).tolist() for name in BATCHES}


def split_of(names):
    labels = [label for name in names for label in LABELS[name]]
    return loading.Split(np.concatenate([IMAGES[name] for name in names]), np.int32(labels))


FINGERPRINT_OF_FEW = loading.Dataset(split_of(TRAIN_BATCHES), split_of([TEST_BATCH]), ()).fingerprint()


def batch_of(name, protocol):
    images = IMAGES[name].transpose(0, 3, 1, 2).reshape(3, 3072)
    return pickle.dumps({b"data": images, b"labels": LABELS[name], b"filenames": [b"a"] * 3}, protocol=protocol)


def write_batches(folder: pathlib.Path) -> pathlib.Path:
    """Write the pickled batches to a new folder, and return it."""
    folder.mkdir()
    for name in BATCHES:
        (folder / name).write_bytes(batch_of(name, 2))
    return folder


def write_tfds(folder: pathlib.Path) -> pathlib.Path:
    """Write a tfds data set to ``folder``, and return its version folder."""
    images = {name: list(zip(LABELS[name], IMAGES[name], strict=True)) for name in BATCHES}
    path = folder / "archive.tar.gz"
    path.write_bytes(official_archive(images, form="binary"))
    with few_images():
        version = official._write_tfds(folder, cifar.CIFAR10, path, cifar.CIFAR10.archives[1])
    path.unlink()
    return version
