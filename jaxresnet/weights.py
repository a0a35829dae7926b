"""Weights under PyTorch's names and in its layouts, and back, bit for bit. Everything here is NumPy.

| PyTorch | Flax |
| --- | --- |
| ``layer2.0.conv1.weight`` (out, in, height, width) | ``params``, ``layer2_0/conv1/kernel`` (height, width, in, out) |
| ``layer2.0.shortcut.0.weight``, ``layer2.0.shortcut.1.*`` | ``layer2_0/shortcut_conv``, ``layer2_0/shortcut_bn`` |
| ``bn1.weight``, ``bn1.bias`` | ``params``, ``bn1/scale``, ``bn1/bias`` |
| ``bn1.running_mean``, ``bn1.running_var`` | ``batch_stats``, ``bn1/mean``, ``bn1/var`` |
| ``linear.weight`` (out, in) | ``params``, ``linear/kernel`` (in, out) |

PyTorch's counters ``num_batches_tracked`` are ignored, and not written: no network reads them, and ``load_state_dict``
does without.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxresnet.core.state import model_from_fields
from jaxresnet.data.cifar import IMAGE_SHAPE
from jaxresnet.system.errors import UserError

StateDict = dict[str, np.ndarray]

_NAMES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
# PyTorch implementations name the convolution and the BatchNorm of a shortcut by their places in it.
_SHORTCUTS = {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1"}
_COUNTERS = "num_batches_tracked"
_LAST = "linear.weight"  # a key of every network here, and of each only one


def torch_key(path: tuple[str, ...]) -> str:
    """Return PyTorch's key of a variable with this path, such as ("params", "layer2_0", "conv1", "kernel").

    An underscore before a number is a dot in PyTorch, where blocks are numbered members of a stage.
    """
    collection, *modules, name = path
    names = [_SHORTCUTS.get(module, re.sub(r"_(?=\d)", ".", module)) for module in modules]
    return ".".join([*names, _NAMES[collection, name]])


def to_state_dict(variables: Mapping[str, Any]) -> StateDict:
    """Convert ``params`` and ``batch_stats`` of a model to a PyTorch state dict."""
    flat = traverse_util.flatten_dict(dict(variables))
    return {torch_key(path): _to_torch(np.asarray(leaf)).copy() for path, leaf in flat.items()}


def from_state_dict(state_dict: Mapping[str, np.ndarray], model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a PyTorch state dict to the variables of the model that ``model_config`` describes.

    Args:
        state_dict: arrays by PyTorch's keys, with or without a prefix such as that of ``DataParallel`` or Lightning.
        model_config: ``config.model`` (see ``configs/default.py``), or a dictionary of its fields.

    Returns:
        ``params`` and ``batch_stats`` for ``model.apply``, in float32.

    Raises:
        UserError: keys or shapes are not those of the model, and the message lists all that differ, or weights are not
            finite in float32.
    """
    arrays = {key: array for key, array in unwrap(state_dict).items() if not key.endswith(_COUNTERS)}
    model, images = model_from_fields(model_config), jax.ShapeDtypeStruct((1, *IMAGE_SHAPE), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    paths = {torch_key(path): path for path in traverse_util.flatten_dict(dict(variables))}
    expected = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables))
    misfits = {
        "missing": [key for key in expected if key not in arrays],
        "unexpected": [key for key in arrays if key not in expected],
        "of another shape": [
            f"{key} {arrays[key].shape}, expected {array.shape}"
            for key, array in expected.items()
            if key in arrays and arrays[key].shape != array.shape
        ],
    }
    if any(misfits.values()):
        lines = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in misfits.items() if keys]
        raise UserError("\n".join(["the weights do not fit the model", *lines]))
    return traverse_util.unflatten_dict({path: _to_flax(key, arrays[key]) for key, path in paths.items()})


def _to_torch(array: np.ndarray) -> np.ndarray:
    """Transpose (height, width, in, out) or (in, out) to PyTorch's (out, in, height, width) or (out, in)."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _to_flax(key: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        weights = (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T).astype(np.float32)
    if not np.isfinite(weights).all():
        raise UserError(f"{key} holds NaN or infinity, as after a run that diverged")
    return weights


def unwrap(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Remove what DataParallel, torch.compile, averaging or Lightning put before all keys, and other things' keys."""
    prefixes = [key.removesuffix(_LAST) for key in state_dict if key.endswith(_LAST)]
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    return {key.removeprefix(prefix): array for key, array in state_dict.items() if key.startswith(prefix)}
