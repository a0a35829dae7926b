"""Safe reading of pickled NumPy arrays: no file can run code, or read memory beyond its own content."""

import io
import pickle
import pickletools
from typing import Any, ClassVar

import numpy as np


def unpickle(content: bytes) -> Any:
    """Return the content of a pickle: plain Python types, and arrays for ``to_array`` to convert.

    Raises:
        Exception: many types, if the pickle is damaged or asks for anything else.
    """
    for place, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        # The unpickler allocates as many entries as a memo index says. There is at most one entry per opcode.
        if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > place:
            raise pickle.UnpicklingError(f"its memo index {argument} is too large")
    return _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()


def to_array(value: Any) -> np.ndarray:
    """Convert an array or a list from ``unpickle`` to a NumPy array.

    Lists of names become arrays of objects, which take no more memory.

    Raises:
        ValueError: ``value`` holds neither an array nor a list of numbers or names.
    """
    if isinstance(value, _PickledArray) and value.array is not None:
        return value.array
    kinds = {type(each) for each in value} if isinstance(value, list | tuple) else {None}
    if not kinds <= {int, str, bytes}:
        raise ValueError("it holds neither arrays nor lists of numbers or names")
    return np.array(value, np.int64 if kinds == {int} else object)


class _PickledDtype:
    """Stand-in for ``np.dtype`` in pickles."""

    def __init__(self, name: str | bytes, *_: Any):
        self.dtype = np.dtype(name if isinstance(name, str) else name.decode())

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        byte_order: Any = state[1] if isinstance(state[1], str) else state[1].decode()
        self.dtype = self.dtype.newbyteorder(byte_order)


class _PickledArray:
    """Stand-in for ``np.ndarray`` in pickles.

    The original trusts the sizes in a file, and reads beyond its memory if they are wrong.

    Attributes:
        array: NumPy array, or None before it is filled or if it holds objects.
    """

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    @classmethod
    def reconstruct(cls, *_: Any) -> "_PickledArray":
        """Return an empty array like NumPy's ``_reconstruct``; ``__setstate__`` fills it."""
        return cls()

    @classmethod
    def from_buffer(cls, content: bytes, dtype: _PickledDtype, shape: tuple[int, ...], order: Any) -> "_PickledArray":
        """Return a filled array like NumPy's ``_frombuffer``."""
        filled = cls()
        filled.array = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
        return filled

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(content, list):  # arrays of objects have a list
            self.array = self.from_buffer(content, dtype, shape, "F" if column_major else "C").array


class _BatchUnpickler(pickle.Unpickler):
    """Unpickler of arrays and plain Python types alone, so that no file can run code."""

    _ALLOWED: ClassVar = {
        ("numpy", "dtype"): _PickledDtype,
        ("numpy", "ndarray"): _PickledArray,
        # The official files use the module name of NumPy 1.
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray.reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray.reconstruct,
        # The first two are for arrays at protocol 5, the last is for bytes below protocol 3.
        ("numpy.core.numeric", "_frombuffer"): _PickledArray.from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _PickledArray.from_buffer,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 does")
        return self._ALLOWED[module, name]
