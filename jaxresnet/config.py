"""Checking, storing and comparing configs."""

import json
import math
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from jaxresnet.errors import UserError, one_line
from jaxresnet.files import write_whole

CONFIG_FILE = "config.json"

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

# What every config has.
_GROUPS = ("model", "dataset", "augment", "optimizer", "schedule")
_SECTIONS = ("seed", "dtype", "batch_size", "eval_batch_size", *_GROUPS)


def check_config(config: ConfigDict) -> None:
    """Refuses values that cannot work and that nothing else would refuse in one line.

    Raises:
        UserError: the first such field, and what is expected of it.
    """

    def require(holds: object, field: str, expected: str) -> None:
        if not holds:
            value = config
            for name in field.split("."):
                value = value[name]
            raise UserError(f"{field}={value!r}: expected {expected}")

    for field, kind in (
        ("model.channels", int),
        ("model.blocks", int),
        ("augment.mean", (int, float)),
        ("augment.std", (int, float)),
    ):
        section, name = field.split(".")
        values = config[section][name]
        require(all(isinstance(value, kind) and math.isfinite(value) for value in values), field, "numbers")
    for field in ("num_epochs", "batch_size", "eval_batch_size", "steps_per_dispatch"):
        require(config[field] > 0, field, "at least 1")
    require(config.log_every_steps >= 0, "log_every_steps", "at least 0")
    require(config.dtype in ("float32", "bfloat16"), "dtype", "float32 or bfloat16")
    require(0 <= config.seed < 2**32, "seed", "a number in [0, 2**32)")
    require(config.augment.crop_padding >= 0, "augment.crop_padding", "at least 0")
    require(len(config.augment.mean) == 3, "augment.mean", "a value for each of the 3 channels")
    require(len(config.augment.std) == 3, "augment.std", "a value for each of the 3 channels")
    require(all(std > 0 for std in config.augment.std), "augment.std", "positive values")
    require(0 <= config.schedule.learning_rate < math.inf, "schedule.learning_rate", "a number of at least 0")
    require(
        config.schedule.total_epochs is None or config.schedule.total_epochs > 0,
        "schedule.total_epochs",
        "None or more than 0",
    )
    require(0 <= config.schedule.warmup_epochs < math.inf, "schedule.warmup_epochs", "at least 0")
    require(config.schedule.restarts >= 0, "schedule.restarts", "at least 0")
    require(config.schedule.power > 0, "schedule.power", "a positive number")
    for field in ("schedule.start_factor", "schedule.end_factor"):
        require(0 <= config.schedule[field.partition(".")[2]] < math.inf, field, "a number of at least 0")
    require(0 <= config.optimizer.momentum < 1, "optimizer.momentum", "a share in [0, 1)")
    require(0 <= config.optimizer.weight_decay < math.inf, "optimizer.weight_decay", "a number of at least 0")
    require(config.dataset.validation_size >= 0, "dataset.validation_size", "at least 0")
    require(config.checkpoint.every_minutes > 0, "checkpoint.every_minutes", "a positive number")
    require(config.checkpoint.every_steps >= 0, "checkpoint.every_steps", "at least 0")
    require(config.checkpoint.keep > 0, "checkpoint.keep", "at least 1")
    pooling = config.model.pooling
    require(pooling == "global" or re.fullmatch("[0-9]+", pooling), "model.pooling", '"global" or the size of a window')


def eval_split_name(config: ConfigDict) -> str:
    """What a run is evaluated on after each epoch, and its best epoch chosen on: ``"validation"`` or ``"test"``."""
    return "validation" if config.dataset.validation_size else "test"


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes ``config.json``, whole or not at all."""
    write_whole(workdir / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a run was started with, locked.

    Raises:
        UserError: there is no readable ``config.json``, or one that holds something else.
    """
    path = workdir / CONFIG_FILE
    try:
        fields = json.loads(path.read_text())
        missing = [name for name in _SECTIONS if not isinstance(fields, dict) or name not in fields]
        if missing:
            raise ValueError(f"it holds no {missing[0]}")
        for name in _GROUPS:
            if not isinstance(fields[name], dict):
                raise ValueError(f"its {name} is no group of fields")
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
