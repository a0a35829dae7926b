"""A small, exact, fast JAX training project: the ResNet of Chang and Shong on CIFAR-10."""

import importlib
from typing import Any

from jaxresnet import interrupts, malloc

__version__ = "0.1.0"

# Where the names that ``import jaxresnet`` offers, beside its modules, are defined. They are imported when first used,
# so that a command can answer a mistake before JAX has started.
_DEFINED_IN = {
    "Classifier": "inference",
    "ResNet": "models",
    "UserError": "errors",
    "load": "inference",
    "set_up_jax": "environment",
    "train_and_evaluate": "train",
}

__all__ = [*_DEFINED_IN]

if interrupts.is_command_starting():
    malloc.restart_with_large_pages()  # before anything is imported that would be imported twice
    interrupts.end_at_once()


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        return getattr(importlib.import_module(f"jaxresnet.{_DEFINED_IN[name]}"), name)
    try:
        return importlib.import_module(f"jaxresnet.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'jaxresnet' has no attribute {name!r}") from error
