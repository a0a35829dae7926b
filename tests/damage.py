"""Damaged copies of files, what reading one may come to, and a CIFAR-10 of few images to damage."""

import contextlib
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from jaxresnet import cifar10, cifar10_download, datasets
from jaxresnet.errors import UserError
from tests.test_datasets import official_archive

DAMAGED = "damaged or random data files answered in one line or read rightly"
REFUSED = "files built to execute code, refused"


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """``content`` truncated, with bytes changed, zeroed, left out or put in; or random bytes."""
    # Headers are few bytes of many, and stand at both ends.
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
    """What ``read`` returns, or None where it refuses in one line: anything else that it raises is a defect."""
    try:
        return read(*arguments)
    except UserError as error:
        assert "\n" not in str(error)
        return None


@contextlib.contextmanager
def few_images() -> Iterator[None]:
    """CIFAR-10 has three images a batch, so that thousands of damaged copies are read in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "NUM_TRAIN", 15)
        patch.setattr(cifar10, "NUM_TEST", 3)
        yield


def replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file in the place of another, or of a link to one."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


class Calls:
    """A pickle of this is what ``function(*arguments)`` returns, which loading it calls."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        """So that it may be a function itself."""


RNG = np.random.default_rng(0)
BATCHES = (*cifar10.TRAIN_BATCHES, cifar10.TEST_BATCH)
IMAGES = {name: RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for name in BATCHES}
LABELS = {name: RNG.integers(0, 10, 3).tolist() for name in BATCHES}


def split_of(names):
    labels = [label for name in names for label in LABELS[name]]
    return datasets.Split(np.concatenate([IMAGES[name] for name in names]), np.int32(labels))


FINGERPRINT_OF_FEW = datasets.Dataset(split_of(cifar10.TRAIN_BATCHES), split_of([cifar10.TEST_BATCH])).fingerprint()


def batch_of(name, protocol):
    images = IMAGES[name].transpose(0, 3, 1, 2).reshape(3, 3072)
    return pickle.dumps({b"data": images, b"labels": LABELS[name], b"filenames": [b"a"] * 3}, protocol=protocol)


def write_batches(folder: pathlib.Path) -> None:
    """The pickled batches, in a new folder."""
    folder.mkdir()
    for name in BATCHES:
        (folder / name).write_bytes(batch_of(name, 2))


def write_tfds(folder: pathlib.Path) -> pathlib.Path:
    """The version's folder of tfds, made in ``folder``."""
    images = {name: list(zip(LABELS[name], IMAGES[name], strict=True)) for name in BATCHES}
    official_archive(folder / "archive.tar.gz", images)
    cifar10_download._write_tfds(folder / "archive.tar.gz", folder)
    return cifar10.find_tfds(folder)
