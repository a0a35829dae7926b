"""Check, store and compare configs."""

import json
import math
import pathlib
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxresnet.data.cifar import IMAGE_SHAPE
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.system.files import write_whole

CONFIG_FILE = "config.json"

# Range of float32, in which devices compute. Larger values become infinity, and devices turn smaller ones into 0.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

# Fields that may change when a run resumes: names, where files lie, when they are written, how much is computed at a
# time, and the paper's figures. The data are compared by checksum instead.
NOT_TRAINING = (
    "name",
    "checkpoint",
    "dataset.data_dir",
    "eval_batch_size",
    "steps_per_dispatch",
    "log_every_steps",
    "tracker",
    "paper",
)


class _Rule(NamedTuple):
    """Valid values of a field, as a check and in words."""

    holds: Callable[[Any], bool]
    expected: str


def check_config(config: ConfigDict) -> None:
    """Check field names, types and ranges.

    Limits set by the data, by other fields or by a registry are left to the code that uses the field.

    Raises:
        UserError: a field is missing, unknown or invalid. The message names the first and what is expected.
    """
    fields = flatten(config.to_dict())
    for name in [*_FIELDS, *fields]:
        if name not in fields or name not in _FIELDS:
            problem = "is missing" if name in _FIELDS else "is not a field of a config"
            raise UserError(f"{name}: {problem}; configs/default.py lists them all")
        _check_field(name, fields[name])


def _check_field(name: str, value: Any) -> None:
    if not _FIELDS[name].holds(value):
        raise UserError(f"{name}={' '.join(reprlib.repr(value).split())}: expected {_FIELDS[name].expected}")


def _whole(least: int = 0, most: int | None = None) -> _Rule:
    expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most:,}"
    top = math.inf if most is None else most
    return _Rule(lambda value: type(value) is int and least <= value <= top, expected)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(least: float = 0.0, most: float = _LARGEST) -> _Rule:
    expected = "a number of at least 0" if least == 0 else "a positive number"
    expected += " that float32 can hold" if most == _LARGEST else f", at most {most:g}"
    return _Rule(lambda value: _is_number(value) and least <= value <= most, expected)


def _several(each: _Rule, count: int | None = None) -> _Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, tuple | list) and len(value) == (count or len(value)) and all(map(each.holds, value))

    return _Rule(holds, f"{count or 'any number of'} values, each {each.expected}")


def _optional(rule: _Rule) -> _Rule:
    return _Rule(lambda value: value is None or rule.holds(value), f"{rule.expected}, or None")


def _one_of(*choices: str) -> _Rule:
    return _Rule(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}")


def _is_small_images(value: Any) -> bool:
    if not isinstance(value, tuple | list) or not all(isinstance(p, tuple | list) and len(p) == 2 for p in value):
        return False
    sides, shares = [side for side, _ in value], [share for _, share in value]
    return (
        all(map(_whole(1, IMAGE_SHAPE[0]).holds, sides))
        and all(map(_POSITIVE_SHARE.holds, shares))
        and shares == sorted(set(shares))
    )


_TEXT = _Rule(lambda value: isinstance(value, str) and "\0" not in value, "text")  # a path cannot hold a null
_BOOL = _Rule(lambda value: isinstance(value, bool), "True or False")
_POSITIVE = _number(_SMALLEST)
_POSITIVE_SHARE = _number(_SMALLEST, 1)
_SHARE = _Rule(lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)")
_MANY = 2**20  # more channels or blocks than a network needs, and few enough to compute with

_FIELDS: dict[str, _Rule] = {
    "name": _TEXT,
    "seed": _whole(0, 2**32 - 1),
    "num_epochs": _whole(1),
    "batch_size": _whole(1),
    "eval_batch_size": _whole(1),
    "eval_every_epochs": _whole(1),
    "label_smoothing": _SHARE,
    "loss": _TEXT,
    "code": _TEXT,
    "dtype": _one_of("float32", "bfloat16"),
    "steps_per_dispatch": _whole(1),
    "model.block": _TEXT,
    "model.channels": _several(_whole(1, _MANY)),
    "model.blocks": _several(_whole(1, _MANY)),
    "model.kernel_size": _whole(1),
    "model.shortcut_kernel_size": _whole(1),
    "model.stem_channels": _optional(_whole(1, _MANY)),
    "model.pooling": _Rule(
        lambda value: isinstance(value, str) and bool(re.fullmatch("global|[0-9]{1,4}", value)),
        '"global" or the size of a window',
    ),
    "model.skips": _BOOL,
    "model.dropout_rate": _SHARE,
    "model.num_classes": _whole(2, 1000),  # the confusion matrix grows with its square
    "dataset.name": _TEXT,
    "dataset.data_dir": _optional(_TEXT),
    "dataset.validation_size": _whole(),
    "augment.stages": _TEXT,
    "augment.crop_padding": _whole(0, IMAGE_SHAPE[0]),  # with more, a crop could show nothing of the image
    "augment.flip": _BOOL,
    "augment.small_images": _Rule(
        _is_small_images,
        f"pairs of a side, from 1 to {IMAGE_SHAPE[0]} pixels, and a rising share of the epochs in (0, 1]",
    ),
    "augment.mean": _several(_number(0, 1), 3),
    "augment.std": _several(_POSITIVE, 3),
    "optimizer.name": _TEXT,
    "optimizer.momentum": _SHARE,
    "optimizer.weight_decay": _number(),
    "schedule.name": _TEXT,
    "schedule.learning_rate": _number(),
    "schedule.step_per": _TEXT,
    "schedule.total_epochs": _optional(_POSITIVE),
    "schedule.warmup_epochs": _number(),
    "schedule.start_factor": _number(),
    "schedule.end_factor": _number(),
    "schedule.power": _POSITIVE,
    "schedule.restarts": _whole(0, 2**31 - 1),
    "checkpoint.every_minutes": _POSITIVE,
    "checkpoint.every_steps": _whole(),
    "checkpoint.keep": _whole(1),
    "log_every_steps": _whole(),
    "tracker": _optional(_one_of("wandb")),
    "paper.accuracy": _optional(_number(0, 100)),
    "paper.epoch": _one_of("last", "best", "cited"),
    "paper.curve": _optional(_TEXT),
}

# Fields that older runs' config.json lacks, with the values that describe those runs.
_BEFORE: dict[str, Any] = {
    "augment.small_images": (),
    "augment.stages": "",
    "code": "",
    "loss": "cross_entropy",
    "model.block": "basic",
    "eval_every_epochs": 1,
    "label_smoothing": 0.0,
    "model.skips": True,
    "name": "default",
    "paper.epoch": "last",
    "schedule.end_factor": 0.0,
    "schedule.power": 1.0,
    "schedule.restarts": 3,
    "schedule.start_factor": 1.0,
    "schedule.total_epochs": None,
    "schedule.warmup_epochs": 0.0,
    "tracker": None,
}


def eval_split_name(config: ConfigDict) -> str:
    """Return the split that epochs are evaluated on and the best is chosen on: ``"validation"`` or ``"test"``."""
    return "validation" if config.dataset.validation_size else "test"


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Write ``config.json`` atomically."""
    write_whole(workdir / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """Return the config of a run, locked.

    Raises:
        UserError: ``config.json`` is missing or cannot be read, or a field is missing or invalid.
    """
    path = workdir / CONFIG_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("expected a JSON object")
        flat = flatten(fields)
        for name in _BEFORE.keys() - flat.keys():
            flat[name] = _BEFORE[name]
            *section, leaf = name.split(".")
            (fields[section[0]] if section else fields)[leaf] = _BEFORE[name]
        if missing := [name for name in _FIELDS if name not in flat]:
            raise ValueError(f"{missing[0]} is missing")
        for name, value in flat.items():
            if name in _FIELDS:
                _check_field(name, value)
        return ConfigDict(fields).lock()
    except FileNotFoundError as error:
        raise UserError(f"{workdir} holds no run: there is no {CONFIG_FILE} in it") from error
    except Exception as error:  # fields of unexpected types can raise anything
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error


def check_same_training(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Check that a config trains like that of the run in ``workdir``.

    Raises:
        UserError: fields differ. The message names each, with both values.
    """
    there, missing = load_config(workdir), "(no such field)"
    values = flatten(there.to_dict())
    differences = [
        f"{name}={value!r} (there: {values.get(name, missing)!r})"
        for name, value in changed_fields(config, there).items()
    ]
    if differences:
        longer = " (to train weights further: docs/training.md)" if "num_epochs=" in differences[0] else ""
        raise UserError(
            f"{workdir} holds a run with another config: {', '.join(differences)}; give another --workdir, or the "
            f"config that this run was started with{longer}"
        )


def changed_fields(config: ConfigDict, reference: ConfigDict) -> dict[str, Any]:
    """Return the training fields that differ from ``reference``, with their values in ``config``, by dotted name."""
    # A round trip through JSON makes tuples and lists compare equal.
    new, old = (flatten(json.loads(json.dumps(tree.to_dict()))) for tree in (config, reference))
    missing = "(no such field)"
    return {
        name: new.get(name, missing)
        for name in sorted(new.keys() | old.keys())
        if new.get(name, missing) != old.get(name, missing) and not _is_free(name)
    }


def forget_paper(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Remove the paper's figures from a config if ``overrides``, by dotted name, have made it another experiment.

    The authors' curve stays if only the training was changed, because both are then of the same network and data.
    """
    changed = [name for name in overrides if not _is_free(name) and name not in ("seed", "dtype")]
    if changed:
        config.paper.accuracy = None
    if any(name.startswith(("model.", "dataset.")) for name in changed):
        config.paper.curve = None


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted name, such as ``model.pooling``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in NOT_TRAINING)
