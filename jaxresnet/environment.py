"""What a run ran on, for its summary."""

import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "jaxresnet")


def describe() -> dict[str, Any]:
    """Device, number of devices, versions and git commit."""
    devices = jax.devices()
    return {
        "device": device_name(),
        "platform": devices[0].platform,
        "device_count": len(devices),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES},
        "git_commit": _git_commit(),
    }


def device_name() -> str:
    """The kind of the first device; on CPU the processor and its number of cores."""
    kind = jax.devices()[0].device_kind
    return _processor() if kind == "cpu" else kind


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]}, {len(models)} cores" if models else platform.machine()


def _git_commit() -> str | None:
    """The commit of this source tree, with ``-dirty`` where tracked files differ from it; None outside of git."""
    root = pathlib.Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
