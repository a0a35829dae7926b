"""Checking, storing and comparing configs."""

import json
import math
import pathlib
import re
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.errors import UserError, one_line
from jaxresnet.files import write_whole

CONFIG_FILE = "config.json"

# Of float32, in which devices compute: what is beyond them is infinity or, there, 0.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

# Fields that a run may be continued with other values of: where files lie, when they are written, and how much is
# computed at a time. The data themselves are compared by checksum.
NOT_TRAINING = (
    "name",
    "checkpoint",
    "dataset.data_dir",
    "eval_batch_size",
    "steps_per_dispatch",
    "log_every_steps",
    "paper",
)


def check_config(config: ConfigDict) -> None:
    """Refuses values that cannot work and that nothing else would refuse in one line.

    Raises:
        UserError: the first such field, and what is expected of it.
    """
    fields = flatten(config.to_dict())
    for name in [*_FIELDS, *fields]:
        if name not in fields or name not in _FIELDS:
            there = "is missing" if name in _FIELDS else "is no field of a config"
            raise UserError(f"{name}: {there}; configs/default.py lists them all")
        _check_field(name, fields[name])


def _check_field(name: str, value: Any) -> None:
    holds, expected = _FIELDS[name]
    if not holds(value):
        raise UserError(f"{name}={' '.join(reprlib.repr(value).split())}: expected {expected}")


Check = Callable[[Any], bool]


def _whole(least: int = 0, below: float = math.inf) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < below


def _number(least: float = 0.0, most: float = _LARGEST, below: float = math.inf) -> Check:
    return lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most and value < below
    )


def _several(each: Check, count: int | None = None) -> Check:
    return lambda value: (
        isinstance(value, tuple | list) and len(value) == (count or len(value)) and all(map(each, value))
    )


def _optional(holds: Check) -> Check:
    return lambda value: value is None or holds(value)


def _one_of(*choices: str) -> Check:
    return lambda value: isinstance(value, str) and value in choices


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value  # which no path may hold


def _is_pooling(value: Any) -> bool:
    return isinstance(value, str) and (value == "global" or bool(re.fullmatch("[0-9]{1,4}", value)))


def _is_small_images(value: Any) -> bool:
    if not _several(lambda pair: isinstance(pair, tuple | list) and len(pair) == 2)(value):
        return False
    sides, shares = [side for side, _ in value], [share for _, share in value]
    return (
        all(map(_whole(1, IMAGE_SHAPE[0] + 1), sides))
        and all(map(_number(_SMALLEST, 1), shares))
        and shares == sorted(set(shares))
    )


_AT_LEAST_0 = "a whole number of at least 0"
_AT_LEAST_1 = "at least 1, a whole number"
_NOT_NEGATIVE = "a number of at least 0 that float32 can hold"
_POSITIVE = "a positive number that float32 can hold"

# Every field, what it may hold, and that in words. What follows from the data, from other fields or from a registry is
# left to who uses the field, and so are the dimensions of a model, which it checks itself.
_FIELDS: dict[str, tuple[Check, str]] = {
    "name": (_is_text, "text"),
    "seed": (_whole(below=2**32), "a whole number in [0, 2**32)"),
    "num_epochs": (_whole(1), _AT_LEAST_1),
    "batch_size": (_whole(1), _AT_LEAST_1),
    "eval_batch_size": (_whole(1), _AT_LEAST_1),
    "eval_every_epochs": (_whole(1), _AT_LEAST_1),
    "dtype": (_one_of("float32", "bfloat16"), "float32 or bfloat16"),
    "steps_per_dispatch": (_whole(1), _AT_LEAST_1),
    "model.channels": (_several(_whole()), "whole numbers, one a stage"),
    "model.blocks": (_several(_whole()), "whole numbers, one a stage"),
    "model.kernel_size": (_whole(), "an odd whole number"),
    "model.shortcut_kernel_size": (_whole(), "an odd whole number"),
    "model.stem_channels": (_optional(_whole()), "a positive whole number or None"),
    "model.pooling": (_is_pooling, '"global" or the size of a window'),
    "model.dropout_rate": (_number(), "a rate in [0, 1)"),
    # The confusion matrix has a place for every two of them.
    "model.num_classes": (_whole(1, 1001), "a whole number from 1 to 1000"),
    "dataset.name": (_is_text, "text"),
    "dataset.data_dir": (_optional(_is_text), "a path or None"),
    "dataset.validation_size": (_whole(), _AT_LEAST_0),
    # Beyond the image's own side, crops would show nothing of it.
    "augment.crop_padding": (
        _whole(below=IMAGE_SHAPE[0] + 1),
        f"at least 0, a whole number of pixels, and at most {IMAGE_SHAPE[0]}",
    ),
    "augment.flip": (_is_bool, "True or False"),
    "augment.small_images": (
        _is_small_images,
        f"pairs of a side, from 1 to {IMAGE_SHAPE[0]} pixels, and a share of the epochs in (0, 1], which rises",
    ),
    "augment.mean": (_several(_number(most=1), 3), "a value in [0, 1] for each of the 3 channels"),
    "augment.std": (
        _several(_number(_SMALLEST), 3),
        "a value for each of the 3 channels, all of them positive numbers that float32 can hold",
    ),
    "optimizer.name": (_is_text, "text"),
    "optimizer.momentum": (_number(below=1), "a share in [0, 1)"),
    "optimizer.weight_decay": (_number(), _NOT_NEGATIVE),
    "label_smoothing": (_number(below=1), "a share in [0, 1)"),
    "schedule.name": (_is_text, "text"),
    "schedule.learning_rate": (_number(), _NOT_NEGATIVE),
    "schedule.step_per": (_is_text, "text"),
    "schedule.total_epochs": (_optional(_number(_SMALLEST)), f"None or {_POSITIVE}"),
    "schedule.warmup_epochs": (_number(), _NOT_NEGATIVE),
    "schedule.start_factor": (_number(), _NOT_NEGATIVE),
    "schedule.end_factor": (_number(), _NOT_NEGATIVE),
    "schedule.power": (_number(_SMALLEST), _POSITIVE),
    "schedule.restarts": (_whole(below=2**31), "a whole number in [0, 2**31)"),
    "checkpoint.every_minutes": (_number(_SMALLEST), _POSITIVE),
    "checkpoint.every_steps": (_whole(), _AT_LEAST_0),
    "checkpoint.keep": (_whole(1), _AT_LEAST_1),
    "log_every_steps": (_whole(), _AT_LEAST_0),
    "paper.accuracy": (_optional(_number(most=100)), "None or a number of percent"),
    "paper.epoch": (_one_of("last", "best", "cited"), "last, best or cited"),
    "paper.curve": (_optional(_is_text), "text or None"),
}

# Fields that the config.json of older runs does not hold, with the values that mean what those runs did.
_BEFORE: dict[str, Any] = {"augment.small_images": (), "eval_every_epochs": 1, "label_smoothing": 0.0}

# The first runs were trained before there were these, and nothing that reads a run needs them.
_LATER = {"name", "paper.epoch"} | {
    f"schedule.{name}" for name in ("total_epochs", "warmup_epochs", "start_factor", "end_factor", "power", "restarts")
}


def eval_split_name(config: ConfigDict) -> str:
    """What a run is evaluated on, and its best epoch chosen on: ``"validation"`` or ``"test"``."""
    return "validation" if config.dataset.validation_size else "test"


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes ``config.json``, whole or not at all."""
    write_whole(workdir / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a run was started with, locked.

    Raises:
        UserError: there is no readable ``config.json``, or one whose values cannot work.
    """
    path = workdir / CONFIG_FILE
    try:
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict):
            raise ValueError("it holds something else")
        flat = flatten(fields)
        for name in _BEFORE.keys() - flat.keys():
            flat[name] = _BEFORE[name]
            *section, leaf = name.split(".")
            (fields[section[0]] if section else fields)[leaf] = _BEFORE[name]
        if missing := [name for name in _FIELDS if name not in flat and name not in _LATER]:
            raise ValueError(f"it holds no {missing[0]}")
        for name, value in flat.items():
            if name in _FIELDS:
                _check_field(name, value)
        return ConfigDict(fields).lock()
    except FileNotFoundError as error:
        raise UserError(f"{workdir} holds no run: there is no {CONFIG_FILE} in it") from error
    except Exception as error:  # fields of other types can raise anything
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error


def check_same_training(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses to continue a run with a config that would train differently.

    Raises:
        UserError: naming each field that differs, and both its values.
    """
    there, missing = flatten(load_config(workdir).to_dict()), "(no such field)"
    differences = [
        f"{name}={value!r} (there: {there.get(name, missing)!r})"
        for name, value in changed_fields(config, load_config(workdir)).items()
    ]
    if differences:
        raise UserError(
            f"{workdir} holds a run with another config: {', '.join(differences)}; give another --workdir, or the "
            "config that this run was started with"
        )


def changed_fields(config: ConfigDict, reference: ConfigDict) -> dict[str, Any]:
    """The fields that train differently than in ``reference``, with their values in ``config``, by dotted name."""
    # Through JSON, so that tuples and lists compare equal.
    new, old = (flatten(json.loads(json.dumps(tree.to_dict()))) for tree in (config, reference))
    missing = "(no such field)"
    return {
        name: new.get(name, missing)
        for name in sorted(new.keys() | old.keys())
        if new.get(name, missing) != old.get(name, missing) and not _is_free(name)
    }


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries by their dotted names, such as ``model.pooling``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in NOT_TRAINING)
