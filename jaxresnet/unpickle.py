"""Reading pickles of NumPy arrays without trusting them: no file can run code, or reach beyond its own content."""

import io
import pickle
import pickletools
from typing import Any, ClassVar

import numpy as np


def unpickle(content: bytes) -> Any:
    """What a pickle holds, of Python's plain types and of arrays that ``to_array`` turns into NumPy's.

    Raises:
        Exception: of many types, where it is damaged or asks for anything else.
    """
    for place, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        # The unpickler makes room for as many objects as such a number says, of which there is one an opcode at most.
        if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > place:
            raise pickle.UnpicklingError(f"it numbers an object {argument}")
    return _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()


def to_array(value: Any) -> np.ndarray:
    """A part of what ``unpickle`` returned, as an array; lists of names as one of objects, which takes no more memory.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, _PickledArray) and value.array is not None:
        return value.array
    kinds = {type(each) for each in value} if isinstance(value, list | tuple) else {None}
    if not kinds <= {int, str, bytes}:
        raise ValueError("it holds neither arrays nor lists of numbers or names")
    return np.array(value, np.int64 if kinds == {int} else object)


class _PickledDtype:
    """What a pickle builds in the place of ``np.dtype``."""

    def __init__(self, name: str | bytes, *_: Any):
        self.dtype = np.dtype(name if isinstance(name, str) else name.decode())

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        byte_order: Any = state[1] if isinstance(state[1], str) else state[1].decode()
        self.dtype = self.dtype.newbyteorder(byte_order)


class _PickledArray:
    """What a pickle builds in the place of ``np.ndarray``, which trusts the sizes in a file and reads beyond its memory
    where they are wrong.

    Attributes:
        array: None until it is filled, and where it holds objects.
    """

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    @classmethod
    def reconstruct(cls, *_: Any) -> "_PickledArray":
        """As NumPy's ``_reconstruct``: an empty array, whose content follows."""
        return cls()

    @classmethod
    def from_buffer(cls, content: bytes, dtype: _PickledDtype, shape: tuple[int, ...], order: Any) -> "_PickledArray":
        """As NumPy's ``_frombuffer``."""
        filled = cls()
        filled.array = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
        return filled

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(content, list):  # of objects
            self.array = self.from_buffer(content, dtype, shape, "F" if column_major else "C").array


class _BatchUnpickler(pickle.Unpickler):
    """Builds arrays and Python's plain types, and nothing else, so that no file can run code."""

    _ALLOWED: ClassVar = {
        ("numpy", "dtype"): _PickledDtype,
        ("numpy", "ndarray"): _PickledArray,
        # The official files name the module as NumPy 1 did.
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray.reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray.reconstruct,
        # What arrays become at protocol 5, and bytes below protocol 3.
        ("numpy.core.numeric", "_frombuffer"): _PickledArray.from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _PickledArray.from_buffer,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 does")
        return self._ALLOWED[module, name]
