"""Damaged copies of files, and what reading one may come to."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import strategies as st

from jaxresnet import cifar10
from jaxresnet.errors import UserError

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
