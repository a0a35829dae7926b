"""A small, exact, fast JAX training project: the ResNet of Chang and Shong on CIFAR-10."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and documentation tools, which do not run ``__getattr__``
    from jaxresnet.calibration import fit_temperature as fit_temperature
    from jaxresnet.config import get_config as get_config
    from jaxresnet.core.model import BasicBlock as BasicBlock
    from jaxresnet.core.model import BatchNorm as BatchNorm
    from jaxresnet.core.model import ResNet as ResNet
    from jaxresnet.core.model import torch_kernel_init as torch_kernel_init
    from jaxresnet.core.schedules import create_learning_rate_fn as create_learning_rate_fn
    from jaxresnet.data.loading import load_dataset as load_dataset
    from jaxresnet.inference import Classifier as Classifier
    from jaxresnet.inference import load as load
    from jaxresnet.report.paper_curves import read_paper_curve as read_paper_curve
    from jaxresnet.system.devices import set_up_jax as set_up_jax
    from jaxresnet.system.errors import UserError as UserError
    from jaxresnet.training import Run as Run
    from jaxresnet.training import train as train
    from jaxresnet.training import train_and_evaluate as train_and_evaluate

__version__ = "0.1.0"

# The modules of the public names. They are imported at first use, so that a command can answer a mistake before JAX
# starts.
_DEFINED_IN = {
    "BasicBlock": "core.model",
    "BatchNorm": "core.model",
    "Classifier": "inference",
    "ResNet": "core.model",
    "Run": "training",
    "UserError": "system.errors",
    "create_learning_rate_fn": "core.schedules",
    "fit_temperature": "calibration",
    "get_config": "config",
    "load": "inference",
    "load_dataset": "data.loading",
    "read_paper_curve": "report.paper_curves",
    "set_up_jax": "system.devices",
    "torch_kernel_init": "core.model",
    "train": "training",
    "train_and_evaluate": "training",
}
__all__ = [*_DEFINED_IN]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        return getattr(importlib.import_module(f"jaxresnet.{_DEFINED_IN[name]}"), name)
    try:
        return importlib.import_module(f"jaxresnet.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'jaxresnet' has no attribute {name!r}") from error
