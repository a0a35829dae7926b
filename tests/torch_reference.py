"""The paper's network in PyTorch, functions that share weights and images with it, and what PyTorch computed."""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pytest

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.nn import Module
except ModuleNotFoundError:  # `from_torch` reads what was stored
    torch = F = nn = None  # type: ignore[assignment]
    Module = object  # type: ignore[assignment, misc]

GOLDEN = pathlib.Path(__file__).parent / "golden"
needs_torch = pytest.mark.skipif(torch is None, reason="reads or writes a .pth file, which takes PyTorch")


@functools.cache
def _stored(path: pathlib.Path) -> dict[str, Any]:
    return dict(np.load(path)) if path.exists() else {}


def from_torch(name: str, compute: Callable[[], Mapping[str, Any]], relative: float | None = None) -> dict[str, Any]:
    """Return the arrays that ``compute`` gets from PyTorch. If that is not installed, return the stored ones.

    Otherwise check that the stored ones are those of today, within ``relative`` of an array's largest magnitude, by
    default 1e-10 in float64 and 1e-5 in float32. ``make golden`` stores them all.

    Args:
        name: "file/entry": the arrays lie in ``tests/golden/file.npz``.
        compute: Returns a dict of arrays. Must depend on nothing random.
        relative: Tolerance for values that amplify rounding.
    """
    file, _, entry = name.partition("/")
    stored = _stored(GOLDEN / f"{file}.npz")
    if torch is None:
        prefix = f"{entry}/"
        found = {key.removeprefix(prefix): array for key, array in stored.items() if key.startswith(prefix)}
        assert found, f"tests/golden/{file}.npz has no {entry!r}: run `make golden` where PyTorch is installed"
        return found
    arrays = {key: np.array(value) for key, value in compute().items()}
    if os.environ.get("STORE_GOLDEN"):
        stored |= {f"{entry}/{key}": array for key, array in arrays.items()}
        GOLDEN.mkdir(exist_ok=True)
        np.savez_compressed(GOLDEN / f"{file}.npz", **stored)
    for key, array in arrays.items():
        kept = stored.get(f"{entry}/{key}")
        assert kept is not None, f"tests/golden/{file}.npz has no {entry!r}: run `make golden`"
        assert (kept.dtype, kept.shape) == (array.dtype, array.shape), (name, key)
        if array.dtype.kind == "f":
            tolerance = (relative or {4: 1e-5, 8: 1e-10}[array.itemsize]) * np.abs(array).max()
            np.testing.assert_allclose(kept, array, rtol=0, atol=tolerance, err_msg=f"{name}/{key} is stale")
        else:
            np.testing.assert_array_equal(kept, array, err_msg=f"{name}/{key} is stale")
    return arrays


class BasicBlock(Module):
    def __init__(
        self, in_channels: int, channels: int, stride: int, kernel_size: int, shortcut_kernel_size: int, skips: bool
    ):
        super().__init__()
        self.skips = skips
        padding = kernel_size // 2
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size, 1, padding, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if skips and (stride != 1 or in_channels != channels):
            padding = shortcut_kernel_size // 2
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, shortcut_kernel_size, stride, padding, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x) if self.skips else y)


class TorchResNet(Module):
    """The network with the dimensions of ``jaxresnet.core.model.ResNet``. ``head`` is the side of the pooled map."""

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256),
        blocks: Sequence[int] = (4, 4, 3),
        kernel_size: int = 3,
        shortcut_kernel_size: int = 1,
        stem_channels: int | None = None,
        pooling: str | int = "global",
        skips: bool = True,
        dropout_rate: float = 0.0,
        head: int = 1,
    ):
        super().__init__()
        in_channels = stem_channels or channels[0]
        self.conv1 = nn.Conv2d(3, in_channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.stages = []
        for i, (features, num_blocks) in enumerate(zip(channels, blocks, strict=True)):
            layers = []
            for j in range(num_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                layers.append(BasicBlock(in_channels, features, stride, kernel_size, shortcut_kernel_size, skips))
                in_channels = features
            self.stages.append(f"layer{i + 1}")
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
        self.pool = nn.AvgPool2d(pooling) if isinstance(pooling, int) else nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout_rate)
        self.linear = nn.Linear(in_channels * head * head, 10)

    def features(self, x: "torch.Tensor") -> "list[torch.Tensor]":
        """Return the output of each stage."""
        x = F.relu(self.bn1(self.conv1(x)))
        outputs = []
        for stage in self.stages:
            x = getattr(self, stage)(x)
            outputs.append(x)
        return outputs

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        return self.linear(self.dropout(torch.flatten(self.pool(self.features(x)[-1]), 1)))


def random_variables(variables: Any, seed: int = 0) -> Any:
    """Return random variables of the same shapes. They keep activations near 1, and variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.Array) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, fan_in**-0.5, leaf.shape).astype(leaf.dtype)
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        return rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def to_state_dict(variables: Any) -> dict[str, np.ndarray]:
    """Convert Flax variables to the names and layouts of ``TorchResNet``."""
    suffixes = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state_dict = {}
    for tree in (variables["params"], variables["batch_stats"]):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            *modules, name = (key.key for key in path)
            prefix = ".".join(modules).replace("_", ".")
            prefix = prefix.replace("shortcut.conv", "shortcut.0").replace("shortcut.bn", "shortcut.1")
            array = np.asarray(leaf)
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            state_dict[f"{prefix}.{suffixes[name]}"] = np.ascontiguousarray(array)
    return state_dict


def load_variables(model: TorchResNet, variables: Any) -> TorchResNet:
    """Copy all parameters and statistics to the model. Only BatchNorm's step counters may be missing."""
    tensors = {key: torch.tensor(array) for key, array in to_state_dict(variables).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing), (missing, unexpected)
    return model


def to_torch_images(images: np.ndarray) -> "torch.Tensor":
    """Convert images from NHWC to NCHW."""
    return torch.tensor(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))
