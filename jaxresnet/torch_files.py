"""Reading and writing PyTorch's checkpoint files. Nothing that a file holds is ever executed."""

import io
import math
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy
from numpy._core import multiarray

from jaxresnet.errors import UserError, one_line
from jaxresnet.torch_weights import StateDict

SAFETENSORS = ".safetensors"

# Numbers of NumPy, as which many scripts save an accuracy.
_HARMLESS = [
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64")),
]

# Until then torch.load could be made to run code, or to write beyond its memory, in spite of weights_only=True
# (CVE-2025-32434, CVE-2026-24747).
SAFE_TORCH = "2.10"

# Under which of these a checkpoint keeps its state dict, if it holds more than that; the authors' code writes "net".
_AUTHORS_KEY = "net"
_STATE_DICT_KEYS = (_AUTHORS_KEY, "state_dict", "model_state_dict", "model")

MAX_EPOCHS = 1_000_000


class TorchCheckpoint(NamedTuple):
    """What a file holds.

    Attributes:
        state_dict: arrays by PyTorch's keys.
        epochs: that the weights were trained for; None where the file does not say.
        accuracy: on the test set, %; None where the file does not say.
    """

    state_dict: StateDict
    epochs: int | None = None
    accuracy: float | None = None


def read_torch_file(path: pathlib.Path) -> TorchCheckpoint:
    """Reads a ``.safetensors`` file, or what ``torch.save`` wrote: a state dict alone, or with more beside it as in the
    authors' ``{"net": state dict, "acc": accuracy, "epoch": from 0}``.

    Raises:
        UserError: no such file, a damaged one, one that would run code, or one of something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; copy it again")
    path.open("rb").close()  # where it may not be read, say that
    if path.suffix.lower() == SAFETENSORS:
        try:
            return TorchCheckpoint(safetensors.numpy.load_file(path))
        except Exception as error:  # a damaged file can raise anything
            raise UserError(f"{path}: is no safetensors file, or a damaged one ({one_line(error)})") from error
    return _from_contents(_load_pickled(path), path)


def to_torch_file(state_dict: StateDict, path: pathlib.Path) -> bytes:
    """What to write to ``path``: for ``.safetensors`` that, or else what ``torch.load`` reads.

    Raises:
        UserError: PyTorch is needed and not installed.
    """
    if path.suffix.lower() == SAFETENSORS:
        return safetensors.numpy.save(state_dict)
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
            warnings.simplefilter("ignore")  # of PyTorch about its own older formats
            with torch.serialization.safe_globals(_HARMLESS):
                return torch.load(_checked(path), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        # PyTorch names what was asked for in the text alone.
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path}: asks for {asked[1]} when loaded, which may run code and is refused; save model.state_dict() "
                "alone"
            ) from error
        raise UserError(f"{path}: is no PyTorch checkpoint, or a damaged one ({_reason(error)})") from error


def _checked(path: pathlib.Path) -> pathlib.Path | io.BytesIO:
    """What to read in the place of ``path``. PyTorch does not look at the checksums of its archives and takes what it
    cannot find in them from uninitialised memory, so it gets a copy of what agrees with them. Its older formats have
    none."""
    if not zipfile.is_zipfile(path):
        return path
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as whole:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed, as PyTorch's are not, or claims to be")
        for name in archive.namelist():
            whole.writestr(name, archive.read(name))
    copy.seek(0)
    return copy


def _reason(error: Exception) -> str:
    """PyTorch's messages go on with advice for its own users, and some say nothing else."""
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
    # The authors count from 0; who calls the weights otherwise saves how many epochs have passed.
    epochs = epoch + 1 if wrapper == _AUTHORS_KEY else epoch
    if epochs not in range(MAX_EPOCHS):
        raise UserError(f"{path}: says that it is of epoch {epoch}: expected 0 to {MAX_EPOCHS:,}")
    return TorchCheckpoint(arrays, int(epochs), accuracy)


def _to_numpy(key: str, value: Any, path: pathlib.Path) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor):
        raise UserError(
            f"{path}: {key!r} is a {type(value).__name__}: expected a tensor; save model.state_dict() alone"
        )
    try:
        value = value.detach()
        # Without a copy: what the shape of a damaged file claims may not fit into memory.
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    except Exception as error:  # sparse, quantised and other tensors, each with a type of its own
        raise UserError(f"{path}: {key!r} is no plain tensor ({_reason(error)})") from error


def _number(value: Any) -> float | None:
    if getattr(value, "ndim", None) == 0:
        try:
            value = value.item()
        except Exception:  # tensors without a content, each with a type of its own
            return None
    try:
        return value if type(value) in (int, float) and math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floating-point numbers
        return None
