"""A small, exact, fast JAX training project: the ResNet of Chang and Shong on CIFAR-10."""

import importlib
from typing import Any

from jaxresnet.system import startup

__version__ = "0.1.0"

# Public names and the modules that define them. They are imported at first use, so that a command can report a mistake
# before JAX starts.
_DEFINED_IN = {
    "Classifier": "inference",
    "ResNet": "core.model",
    "Run": "training",
    "UserError": "system.errors",
    "get_config": "cli.config_files",
    "load": "inference",
    "set_up_jax": "system.devices",
    "train": "training",
    "train_and_evaluate": "training",
}

__all__ = [*_DEFINED_IN]

startup.begin_command()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        return getattr(importlib.import_module(f"jaxresnet.{_DEFINED_IN[name]}"), name)
    try:
        return importlib.import_module(f"jaxresnet.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'jaxresnet' has no attribute {name!r}") from error
