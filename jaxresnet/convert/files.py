"""Reading and writing of PyTorch's checkpoint files. Nothing that a file holds is ever executed."""

import io
import json
import math
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy
from numpy._core import multiarray

from jaxresnet.system.errors import UserError, one_line
from jaxresnet.torch_weights import StateDict

SAFETENSORS = ".safetensors"
_CLASS_NAMES = "class_names"  # in the metadata of a safetensors file, as a JSON list

# Many scripts save an accuracy as a NumPy number.
_HARMLESS = [
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64")),
]

# In older versions, a file could make torch.load run code or write beyond its memory in spite of weights_only=True
# (CVE-2025-32434, CVE-2026-24747).
SAFE_TORCH = "2.10"

# Keys of the state dict in checkpoints that hold more than that. The authors' code writes "net".
_AUTHORS_KEY = "net"
_STATE_DICT_KEYS = (_AUTHORS_KEY, "state_dict", "model_state_dict", "model")

MAX_EPOCHS = 1_000_000


class TorchCheckpoint(NamedTuple):
    """Content of a checkpoint file.

    Attributes:
        state_dict: arrays by PyTorch's keys.
        epochs: number of epochs trained, or None if the file does not say.
        accuracy: test accuracy in %, or None if the file does not say.
        class_names: one name per class, or None if the file does not say.
    """

    state_dict: StateDict
    epochs: int | None = None
    accuracy: float | None = None
    class_names: tuple[str, ...] | None = None


def read_torch_file(path: pathlib.Path) -> TorchCheckpoint:
    """Read a ``.safetensors`` file, or one that ``torch.save`` wrote.

    The latter holds a state dict, alone or in a dictionary such as the authors'
    ``{"net": state dict, "acc": accuracy, "epoch": from 0}``.

    Raises:
        UserError: the file does not exist, is damaged, would run code, or holds something else.
        OSError: the file may not be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; copy it again")
    path.open("rb").close()  # The libraries would report a file that may not be read as a damaged one.
    if path.suffix.lower() == SAFETENSORS:
        try:
            with safetensors.safe_open(path, "np") as file:
                names = json.loads((file.metadata() or {}).get(_CLASS_NAMES, "null"))
            return TorchCheckpoint(safetensors.numpy.load_file(path), class_names=tuple(names) if names else None)
        except Exception as error:  # a damaged file can raise anything
            raise UserError(f"{path}: is not a safetensors file, or a damaged one ({one_line(error)})") from error
    return _from_contents(_load_pickled(path), path)


def to_torch_file(state_dict: StateDict, path: pathlib.Path, class_names: Sequence[str]) -> bytes:
    """Return the bytes to write to ``path``: safetensors if its ending says so, or else a file for ``torch.load``.

    A safetensors file holds the class names in its metadata. Files for ``torch.load`` hold a bare state dict.

    Raises:
        UserError: PyTorch is needed and not installed.
    """
    if path.suffix.lower() == SAFETENSORS:
        return safetensors.numpy.save(state_dict, {_CLASS_NAMES: json.dumps([*class_names])})
    torch = _import_torch(path)
    buffer = io.BytesIO()
    torch.save({key: torch.from_numpy(array) for key, array in state_dict.items()}, buffer)
    return buffer.getvalue()


def _import_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: needs PyTorch (pip install 'torch>={SAFE_TORCH}'); {SAFETENSORS} files do not"
        ) from error
    return torch


def _load_pickled(path: pathlib.Path) -> Any:
    torch = _import_torch(path)
    if torch.torch_version.TorchVersion(torch.__version__) < SAFE_TORCH:
        raise UserError(
            f"{path}: reading it with PyTorch {torch.__version__} might run code that it holds; "
            f"pip install 'torch>={SAFE_TORCH}', or save the weights as {SAFETENSORS}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about its own older formats.
            with torch.serialization.safe_globals(_HARMLESS):
                return torch.load(_checked(path), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        # Only the error's text names the requested object.
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path}: asks for {asked[1]} when loaded. This may run code and is refused; save "
                "model.state_dict() alone"
            ) from error
        raise UserError(f"{path}: is not a PyTorch checkpoint, or a damaged one ({_reason(error)})") from error


def _checked(path: pathlib.Path) -> pathlib.Path | io.BytesIO:
    """Return a copy of an archive with verified checksums, or ``path`` itself for older formats without any.

    PyTorch ignores the checksums of its archives, and fills in missing content from uninitialised memory.
    """
    if not zipfile.is_zipfile(path):
        return path
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as whole:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is or claims to be compressed, unlike PyTorch's own files")
        for name in archive.namelist():
            whole.writestr(name, archive.read(name))
    copy.seek(0)
    return copy


def _reason(error: Exception) -> str:
    """Return PyTorch's message without the advice to its own users, or a reason if nothing else is left."""
    reason = one_line(error).partition(". ")[0]
    return (
        "it asks for more than weights, or holds something else" if re.match("Weights only|[0-9]*$", reason) else reason
    )


def _from_contents(contents: Any, path: pathlib.Path) -> TorchCheckpoint:
    if not isinstance(contents, Mapping):
        raise UserError(f"{path}: holds a {type(contents).__name__}: expected a state dict, or one under 'net'")
    wrapper = next((key for key in _STATE_DICT_KEYS if isinstance(contents.get(key), Mapping)), None)
    state_dict = contents if wrapper is None else contents[wrapper]
    arrays = {str(key): _to_numpy(str(key), value, path) for key, value in state_dict.items()}
    if not arrays:
        raise UserError(f"{path}: holds no weights")
    if wrapper is None:
        return TorchCheckpoint(arrays)
    epoch, accuracy = _number(contents.get("epoch")), _number(contents.get("acc"))
    if epoch is None:
        return TorchCheckpoint(arrays, None, accuracy)
    # The authors count epochs from 0. Scripts with another key save how many have passed.
    epochs = epoch + 1 if wrapper == _AUTHORS_KEY else epoch
    if epochs not in range(MAX_EPOCHS):
        raise UserError(f"{path}: its epoch is {epoch}: expected a whole number from 0, below {MAX_EPOCHS:,}")
    return TorchCheckpoint(arrays, int(epochs), accuracy)


def _to_numpy(key: str, value: Any, path: pathlib.Path) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor):
        raise UserError(
            f"{path}: {key!r} is a {type(value).__name__}: expected a tensor; save model.state_dict() alone"
        )
    try:
        value = value.detach()
        # Not copied, because a damaged file can claim a shape that does not fit into memory.
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    except Exception as error:  # Sparse, quantised and other tensors each raise their own type.
        raise UserError(f"{path}: {key!r} is not a plain tensor ({_reason(error)})") from error


def _number(value: Any) -> float | None:
    if getattr(value, "ndim", None) == 0:
        try:
            value = value.item()
        except Exception:  # Tensors without content each raise their own type.
            return None
    try:
        return value if type(value) in (int, float) and math.isfinite(value) else None
    except OverflowError:  # an integer too large for a float
        return None
