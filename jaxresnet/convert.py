"""Import PyTorch weights as a run.

    jaxresnet convert --from_torch=ckpt.pth --config=configs/final.py --workdir=runs/imported

The file is a .safetensors file, a state dict, or a checkpoint as the authors' code saves it. No code in it is executed.
``weights.py`` converts the layouts.
"""

import argparse
import contextlib
import hashlib
import json
import pathlib
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict
from numpy._core import multiarray

from jaxresnet import cli
from jaxresnet.config import check_config, get_config, save_config
from jaxresnet.system.errors import UserError, one_line, user_path
from jaxresnet.system.files import new_folder

# In older versions, a file could make torch.load run code or write beyond its memory in spite of weights_only=True
# (CVE-2025-32434, CVE-2026-24747).
SAFE_TORCH = "2.10"

# Many scripts save an accuracy as a NumPy number.
_HARMLESS: list[Any] = [
    *((multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    *(np.dtype, *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64"))),
]

# Keys of the state dict in checkpoints that hold more than that. The authors' code writes "net".
_STATE_DICT_KEYS = ("net", "state_dict", "model_state_dict", "model")


class TorchCheckpoint(NamedTuple):
    """Content of a checkpoint file, with None for what it does not say."""

    state_dict: dict[str, np.ndarray]
    accuracy: float | None = None  # test accuracy in %
    class_names: tuple[str, ...] | None = None


def read_torch_file(path: pathlib.Path) -> TorchCheckpoint:
    """Read a ``.safetensors`` file, or one of ``torch.save`` that holds a state dict.

    It may be inside of a dictionary such as the authors' ``{"net": state dict, "acc": accuracy, "epoch": from 0}``.

    Raises:
        UserError: the file does not exist, is damaged, would run code, or holds something else.
        OSError: the file may not be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    path.open("rb").close()  # The libraries would report a file that may not be read as a damaged one.
    return _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickled(path)


def _read_safetensors(path: pathlib.Path) -> TorchCheckpoint:
    try:
        with safetensors.safe_open(path, "np") as file:
            text = (file.metadata() or {}).get("class_names", "")
        arrays = safetensors.numpy.load_file(path)
    except Exception as error:  # A damaged file can raise anything.
        raise UserError(f"{path}: is not a safetensors file, or a damaged one ({one_line(error)})") from error
    return TorchCheckpoint(arrays, class_names=_class_names(text, path) if text else None)


def _class_names(text: str, path: pathlib.Path) -> tuple[str, ...] | None:
    """Return the class names in a file's metadata, or None with a note: any program may have written that entry."""
    with contextlib.suppress(ValueError):
        names = json.loads(text)
        if isinstance(names, list) and all(isinstance(name, str) for name in names) and len({*names}) == len(names):
            return tuple(names)
    print(f"note: {path}: its class_names are not a JSON list of different names, and are ignored", file=sys.stderr)
    return None


def _read_pickled(path: pathlib.Path) -> TorchCheckpoint:
    contents = _load_pickled(path)
    if not isinstance(contents, Mapping):
        raise UserError(f"{path}: holds a {type(contents).__name__}: expected a state dict, or one under 'net'")
    wrapper = next((key for key in _STATE_DICT_KEYS if isinstance(contents.get(key), Mapping)), None)
    state_dict = contents if wrapper is None else contents[wrapper]
    arrays = {str(key): _to_numpy(str(key), value, path) for key, value in state_dict.items()}
    if wrapper is None:
        return TorchCheckpoint(arrays)
    accuracy = contents.get("acc")  # many scripts save a NumPy number
    return TorchCheckpoint(arrays, float(accuracy) if isinstance(accuracy, float | np.floating) else None)


def _load_pickled(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: needs PyTorch (pip install 'torch>={SAFE_TORCH}'); .safetensors files do not"
        ) from error
    if torch.torch_version.TorchVersion(torch.__version__) < SAFE_TORCH:
        raise UserError(
            f"{path}: reading it with PyTorch {torch.__version__} might run code that it holds; "
            f"pip install 'torch>={SAFE_TORCH}', or save the weights as .safetensors"
        )
    try:
        if zipfile.is_zipfile(path):  # PyTorch ignores the checksums of its archives.
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of {damaged} is wrong")
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # PyTorch warns about its own older formats.
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file can raise anything.
        # Only the error's text names the requested object.
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path}: asks for {asked[1]} when loaded. This may run code and is refused; save "
                "model.state_dict() alone"
            ) from error
        # The rest of PyTorch's message is advice to its own users.
        reason = one_line(error).partition(". ")[0]
        raise UserError(f"{path}: is not a PyTorch checkpoint, or a damaged one ({reason})") from error


def _to_numpy(key: str, value: Any, path: pathlib.Path) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor):
        raise UserError(
            f"{path}: {key!r} is a {type(value).__name__}: expected a tensor; save model.state_dict() alone"
        )
    if value.dtype == torch.bfloat16:  # NumPy's own types have none.
        return value.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.detach().numpy()


def import_weights(file: pathlib.Path, config: ConfigDict, workdir: pathlib.Path) -> str:
    """Create a run before its first step from a PyTorch checkpoint, and return a description of what was imported.

    Args:
        file: checkpoint that ``read_torch_file`` accepts.
        config: config that the weights belong to.
        workdir: new folder.

    Raises:
        UserError: the file, config or folder is invalid, or the weights do not fit the config.
        OSError: the folder cannot be written.
    """
    import jax
    import jax.numpy as jnp

    from jaxresnet.core.model import count_parameters
    from jaxresnet.core.state import begin_with
    from jaxresnet.weights import from_state_dict
    from jaxresnet.workdir.checkpoint import Checkpointer, Progress
    from jaxresnet.workdir.folder import IMPORTED_FILE, write_class_names, write_json

    check_config(config)
    with new_folder("--workdir", workdir) as new:
        checkpoint = read_torch_file(file)
        try:
            variables = from_state_dict(checkpoint.state_dict, config.model)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        state = begin_with(config, jax.tree.map(jnp.asarray, variables))
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        origin = {"file": file.name, "accuracy": checkpoint.accuracy, "sha256": sha256}
        save_config(config, new)
        with Checkpointer(new) as checkpointer:
            checkpointer.save(state, Progress(data_fingerprint=None))
        write_json(new / IMPORTED_FILE, origin)
        if checkpoint.class_names is not None:
            write_class_names(checkpoint.class_names, new)
    claims = "" if checkpoint.accuracy is None else f", and its file claims {checkpoint.accuracy:.2f}% accuracy"
    return (
        f"{workdir}: {count_parameters(state.params):,} parameters{claims}.\nThe file does not say how images were "
        f"normalised or features pooled. To check the config, run: jaxresnet evaluate --workdir={workdir}"
    )


def convert(arguments: argparse.Namespace) -> None:
    """Import the weights that the flags name."""
    config = get_config(arguments.config, arguments.overrides)
    print(import_weights(user_path(arguments.from_torch), config, user_path(arguments.workdir)))


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("convert", __doc__)
    parser.add_config("config file that the weights belong to")
    parser.add_argument("--workdir", required=True, help="new run directory")
    parser.add_argument("--from_torch", required=True, help="file to import")
    cli.run(convert, parser, argv)


if __name__ == "__main__":
    main()
