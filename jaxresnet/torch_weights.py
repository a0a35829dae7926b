"""Conversion of weights to PyTorch's names and layouts and back, bit for bit.

Everything here is NumPy. PyTorch is only needed to read and write its own files (see ``jaxresnet.convert.files``).

| PyTorch | Flax |
| --- | --- |
| ``layer2.0.conv1.weight`` (out, in, height, width) | ``params``, ``layer2_0/conv1/kernel`` (height, width, in, out) |
| ``layer2.0.shortcut.0.weight``, ``layer2.0.shortcut.1.*`` | ``layer2_0/shortcut_conv``, ``layer2_0/shortcut_bn`` |
| ``bn1.weight``, ``bn1.bias`` | ``params``, ``bn1/scale``, ``bn1/bias`` |
| ``bn1.running_mean``, ``bn1.running_var`` | ``batch_stats``, ``bn1/mean``, ``bn1/var`` |
| ``bn1.num_batches_tracked`` | ``num_batches_tracked``, ``bn1/count`` (not read by Flax models) |
| ``linear.weight`` (out, in) | ``params``, ``linear/kernel`` (in, out) |
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxresnet.core.model import ResNet
from jaxresnet.core.state import model_from_fields
from jaxresnet.data.cifar import IMAGE_SHAPE
from jaxresnet.system.errors import UserError

StateDict = dict[str, np.ndarray]
Path = tuple[str, ...]

COUNTERS = "num_batches_tracked"

# Flax names and the last parts of PyTorch's keys, in PyTorch's order. Convolutions and linear layers have a kernel.
_NAMES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
    (COUNTERS, "count"): COUNTERS,
}
_MODULES = {"shortcut_conv": "shortcut.0", "shortcut_bn": "shortcut.1"}
_ORDER = ("conv1", "bn1", "conv2", "bn2", "shortcut.0", "shortcut.1", "linear")

# Prefixes that DataParallel and torch.compile put before every key.
_WRAPPERS = ("module.", "_orig_mod.")


class UnfitWeights(UserError):
    """Mismatch between the keys or shapes of a state dict and those of the model."""


def from_state_dict(state_dict: Mapping[str, np.ndarray], model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a PyTorch state dict to the variables of the model that ``model_config`` describes.

    Args:
        state_dict: arrays by PyTorch's keys, with or without the prefixes of ``DataParallel`` and ``torch.compile``.
            The counters ``num_batches_tracked`` may be missing, as in files of early PyTorch versions.
        model_config: ``config.model`` (see ``configs/default.py``), or a dictionary of its fields.

    Returns:
        ``params`` and ``batch_stats`` for ``model.apply``, in float32, and ``num_batches_tracked``. Models ignore the
        counters. ``to_state_dict`` writes them back.

    Raises:
        UnfitWeights: keys are missing or unexpected, or shapes differ. The message lists all of them.
        UserError: weights are not floating-point numbers or not finite in float32, or counters or model are invalid.
    """
    if misfit := describe_misfit(state_dict, model_config):
        raise UnfitWeights(misfit)
    arrays = unwrap(state_dict)
    return traverse_util.unflatten_dict(
        {
            path: _counter(key, arrays.get(key, 0)) if path[0] == COUNTERS else _weights(key, arrays[key])
            for key, (path, _) in _expected(model_from_fields(model_config)).items()
        }
    )


def _counter(key: str, array: np.ndarray | int) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "iu" or array < 0 or array > np.iinfo(np.int64).max:
        raise UserError(f"{key} is {array} ({array.dtype}): expected a number of batches")
    return array.astype(np.int64)


def _weights(key: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UserError(f"{key} is {array.dtype}: expected floating-point numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        weights = _transpose(array, to_torch=False).astype(np.float32)
    if not np.isfinite(weights).all():
        raise UserError(f"{key} holds NaN or infinity, as after a run that diverged")
    return weights


def to_state_dict(variables: Mapping[str, Any]) -> StateDict:
    """Convert the variables of a model to a PyTorch state dict, with the keys in PyTorch's order.

    Args:
        variables: ``params``, ``batch_stats`` and optionally ``num_batches_tracked``. Missing counters become 0.
    """
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(dict(variables)).items()}
    flat = dict.fromkeys(_counter_paths(flat), np.zeros((), np.int64)) | flat
    state_dict = {_key(path): _transpose(array, to_torch=True).copy() for path, array in flat.items()}
    return dict(sorted(state_dict.items(), key=lambda item: _torch_order(item[0])))


def describe_misfit(state_dict: Mapping[str, Any], model_config: Mapping[str, Any]) -> str | None:
    """Describe how a state dict does not fit a model, one line per kind of mismatch, or return None if it fits."""
    shapes = {key: tuple(array.shape) for key, array in unwrap(state_dict).items()}
    expected = _expected(model_from_fields(model_config))
    missing = [key for key in expected if key not in shapes and not key.endswith(COUNTERS)]
    unexpected = [key for key in shapes if key not in expected]
    misshapen = [
        f"{key} {shapes[key]}, expected {shape}"
        for key, (_, shape) in expected.items()
        if shapes.get(key, shape) != shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    lines = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in kinds.items() if keys]
    return "\n".join(lines) or None


def infer_architecture(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Infer fields of ``config.model`` from a state dict. Return {} if it is not a ResNet of basic blocks."""
    shapes = {key: tuple(array.shape) for key, array in unwrap(state_dict).items()}
    first = {key: shape for key, shape in shapes.items() if re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", key)}
    stem, linear = shapes.get("conv1.weight", ()), shapes.get("linear.weight", ())
    if not first or len(stem) != 4 or len(linear) != 2 or any(len(shape) != 4 for shape in first.values()):
        return {}
    stages: dict[int, list[tuple[int, ...]]] = {}
    for key, shape in first.items():
        stages.setdefault(int(key.split(".")[0].removeprefix("layer")), []).append(shape)
    fields = {
        "channels": tuple(stages[stage][0][0] for stage in sorted(stages)),
        "blocks": tuple(len(stages[stage]) for stage in sorted(stages)),
        "kernel_size": next(iter(first.values()))[-1],
        "stem_channels": stem[0],
        "num_classes": linear[0],
    }
    projections = [shape for key, shape in shapes.items() if key.endswith(".shortcut.0.weight") and len(shape) == 4]
    return fields | ({"shortcut_kernel_size": projections[0][-1]} if projections else {})


@functools.cache
def _expected(model: ResNet) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Map each key of the model's state dict to the path of its array in the variables and its shape in PyTorch."""
    images = jax.ShapeDtypeStruct((1, *IMAGE_SHAPE), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    state_dict = to_state_dict(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables))
    flat = traverse_util.flatten_dict(dict(variables))
    by_key = {_key(path): path for path in (*flat, *_counter_paths(flat))}
    return {key: (by_key[key], array.shape) for key, array in state_dict.items()}


def _counter_paths(paths: Iterable[Path]) -> list[Path]:
    """Return one counter path per BatchNorm among ``paths``."""
    return [(COUNTERS, *path[1:-1], "count") for path in paths if path[0] == "batch_stats" and path[-1] == "mean"]


def _key(path: Path) -> str:
    collection, *modules, name = path
    parts = [_MODULES.get(module, module) for module in modules]
    if modules[0].startswith("layer"):
        parts[0] = modules[0].replace("_", ".")
    return ".".join([*parts, _NAMES[collection, name]])


def _transpose(array: np.ndarray, *, to_torch: bool) -> np.ndarray:
    """Transpose (height, width, in, out) or (in, out) to PyTorch's (out, in, height, width) or (out, in), or back."""
    if array.ndim == 4:
        return array.transpose((3, 2, 0, 1) if to_torch else (2, 3, 1, 0))
    return array.T


def unwrap(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefixes that ``DataParallel`` and ``torch.compile`` put before every key."""
    arrays = dict(state_dict)
    while wrapper := next((each for each in _WRAPPERS if arrays and all(key.startswith(each) for key in arrays)), None):
        arrays = {key.removeprefix(wrapper): array for key, array in arrays.items()}
    return arrays


def _torch_order(key: str) -> tuple[int, ...]:
    """Return a sort key: the stem, the blocks by number, the linear layer, each in PyTorch's registration order."""
    *module, name = key.split(".")
    stage, block = (int(module[0].removeprefix("layer")), int(module[1])) if module[0].startswith("layer") else (0, 0)
    if module[0] == "linear":
        stage = 10**9
    layer = ".".join(module[2:] if stage and module[0] != "linear" else module)
    return stage, block, _ORDER.index(layer), list(dict.fromkeys(_NAMES.values())).index(name)
