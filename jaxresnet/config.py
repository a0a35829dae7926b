"""Configs: find and run their files, override fields, check, store and compare.

A config file has a function ``get_config``, which returns a ``ConfigDict`` with the fields of ``configs/default.py``.
That file is the schema: a field's type is that of its default. A table of experiments has arms: ``ARMS`` names them,
``get_config`` takes one and has a default, and ``TITLE`` is the title of the table.
"""

import ast
import contextlib
import difflib
import functools
import inspect
import json
import math
import os
import pathlib
import pickle
import re
import reprlib
import runpy
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxresnet.extensions import use_all
from jaxresnet.system.errors import UsageError, UserError, one_line, user_path
from jaxresnet.system.files import shipped_folder, write_whole

CONFIG_FILE = "config.json"  # in every run directory

CONFIGS = shipped_folder("configs")

# Fields that may change when a run resumes: names, where files lie, when they are written, how much is computed at a
# time, and the paper's figures. The data are compared by checksum instead.
NOT_TRAINING = (
    *("name", "checkpoint", "dataset.data_dir", "eval_batch_size", "steps_per_dispatch", "log_every_steps", "tracker"),
    "paper",
)

_MOST = 2**31 - 1  # devices count in int32
_TINY, _HUGE = 1e-37, 1e38  # float32 holds no smaller and no larger numbers than about these
_BELOW_1 = math.nextafter(1, 0)
# Least and largest value of a number, or of each number in a tuple, where it is not 0 and _MOST or _HUGE.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("num_epochs", "batch_size", "eval_batch_size", "eval_every_epochs"), (1, _MOST)),
    **dict.fromkeys(("steps_per_dispatch", "checkpoint.keep"), (1, _MOST)),
    **dict.fromkeys(("model.channels", "model.stem_channels"), (1, 2**20)),
    **dict.fromkeys(("model.kernel_size", "model.shortcut_kernel_size"), (1, 63)),  # covers 32 pixels from each
    "model.blocks": (1, 1000),
    **dict.fromkeys(("label_smoothing", "ema_decay", "model.dropout_rate", "optimizer.momentum"), (0, _BELOW_1)),
    **dict.fromkeys(("augment.std", "checkpoint.every_minutes"), (_TINY, _HUGE)),
    "schedule.power": (_TINY, _HUGE),
    "schedule.total_epochs": (0.001, _HUGE),  # about a step
    **dict.fromkeys(("seed", "dataset.split_seed"), (0, 2**32 - 1)),
    "model.num_classes": (2, 1000),  # the confusion matrix grows with its square
    "dataset.image_size": (32, 512),
    "augment.crop_padding": (0, 32),  # with more, a crop could show nothing of the image
    "augment.mean": (0, 1),
    "paper.accuracy": (0, 100),
}
_CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "schedule.step_per": ("epoch", "step"),
    "tracker": ("wandb",),
    "paper.epoch": ("last", "best", "cited"),
}


class Experiment(NamedTuple):
    """Content of a config file."""

    path: pathlib.Path
    title: str  # of the table, or "" if it is none
    arms: tuple[str, ...]  # rows of the table in order, or ("",) if it has no arms
    get_config: Callable[[str], ConfigDict]  # of an arm, or "" for the default; the config is locked and valid
    contents: dict[str, Any]  # all names that the file defines, such as CLAIMS


def get_config(name: str | pathlib.Path, overrides: Mapping[str, str] = types.MappingProxyType({})) -> ConfigDict:
    """Return a config. Its fields may be changed before it is trained.

    Args:
        name: name or path of a config file, and after a colon an arm: ``"final"``, ``"mine.py"``, ``"pooling:max"``.
        overrides: fields to change, by dotted name, as on a command line: ``{"model.blocks": "(2,2,2)"}``.

    Raises:
        UsageError: there is no such file, arm or field, or a value is invalid.
    """
    file, arm = split_arm(name)
    config = load_experiment(file).get_config(arm)
    apply(config, overrides)
    return config


def apply(config: ConfigDict, overrides: Mapping[str, str]) -> None:
    """Set fields of a valid config, in place. If that makes it another experiment, remove the paper's figures.

    The authors' curve stays if only the training was changed, because both are then of the same network and data.

    Raises:
        UsageError: there is no such field, or a value is invalid.
    """
    for name, text in overrides.items():
        if name not in _schema():
            close = difflib.get_close_matches(name, _schema(), n=1, cutoff=0.5)
            hint = f"did you mean config.{close[0]}?" if close else "configs/default.py lists them all"
            raise UsageError(f"--config.{name}: there is no such field; {hint}")
        value = _parse(text, *_schema()[name])
        if expected := _expected(name, value):
            raise UsageError(f"--config.{name}={text[:60]}: expected {expected}")
        with config.ignore_type():
            config.update_from_flattened_dict({name: value})
    use_all(config)
    changed = [name for name in overrides if not _is_free(name) and name not in ("seed", "dtype")]
    if changed:
        config.paper.accuracy = None
    if any(name.startswith(("model.", "dataset.")) for name in changed):
        config.paper.curve = None


def _parse(text: str, kind: type, default: Any) -> Any:
    """Return the value that ``text`` stands for on a command line, or ``text`` itself if it stands for none."""
    if default is None and text.lower() == "none":
        return None
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    if kind is tuple:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return float(value) if kind is float and type(value) is int and abs(value) < _HUGE else value


def split_arm(name: str | pathlib.Path) -> tuple[pathlib.Path, str]:
    """Return the path of a config file and the arm after a colon, or ``""`` without one.

    Args:
        name: path of a file, or the name of one in ``CONFIGS``: ``final``, ``final.py`` or ``configs/final.py``.

    Raises:
        UsageError: there is no such file.
    """
    path, arm = user_path(name), ""
    if not os.path.isfile(path):  # False for paths that are too long or may not be read, too
        file, _, arm = str(name).partition(":")
        path = user_path(file)
    if not os.path.isfile(path) and path.parent in (pathlib.Path(), pathlib.Path("configs")):
        path = CONFIGS / f"{path.name.removesuffix('.py')}.py"
    if not os.path.isfile(path):
        known = ", ".join(file.stem for file in list_shipped())
        raise UsageError(f"there is no file {str(name)[:200]!r}; give the path of a config file, or one of {known}")
    return path, arm


def list_shipped() -> list[pathlib.Path]:
    """Return the config files that come with the package, by name."""
    return sorted(file for file in CONFIGS.glob("*.py") if file.stem not in ("tables", "default"))


def load_experiment(path: str | pathlib.Path) -> Experiment:
    """Run a config file.

    Raises:
        UsageError: there is no such file, or it cannot be run.
    """
    path, _ = split_arm(path)
    with _running(path):
        contents = runpy.run_path(str(path))
    function = contents.get("get_config")
    if not callable(function):
        raise UsageError(f"{path} is not a config: there is no get_config in it")

    def get_config(arm: str = "") -> ConfigDict:
        if arm and not inspect.signature(function).parameters:
            raise UsageError(f"{path} has no arms, so no {arm!r}")
        with _running(path):
            config = function(arm) if arm else function()
            check_config(config)
            use_all(config, path.parent)
        return config.lock()

    arms = contents.get("ARMS", ("",))
    if not isinstance(arms, dict | list | tuple) or not arms or not all(isinstance(arm, str) for arm in arms):
        raise UsageError(f"{path}: ARMS={reprlib.repr(arms)}: expected one or more names of arms")
    return Experiment(path, str(contents.get("TITLE", "")), tuple(arms), get_config, contents)


@contextlib.contextmanager
def _running(path: pathlib.Path) -> Iterator[None]:
    """Make config files importable as ``configs.NAME`` while the one at ``path`` runs, and report its errors.

    Its neighbours come first if their folder is called configs, then this project's, then those in the current folder.
    Modules that the program has imported as ``configs`` come back afterwards.
    """
    folder, theirs = path.resolve().parent, _forget_configs()
    package = sys.modules["configs"] = types.ModuleType("configs")
    own = [folder] if folder.name == "configs" else []
    package.__path__ = [str(each) for each in (*own, CONFIGS, pathlib.Path("configs").resolve())]
    try:
        yield
    except UserError as error:  # of ``check_config`` or ``use_all``
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # The file's own code can raise anything.
        text = re.sub(r"Other fields present.*?(Did you mean|$)", r"\1", " ".join(str(error).split()))  # a long list
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}:{lines[-1]}" if lines else path
        raise UsageError(f"{place}: {text[:300]} ({type(error).__name__})") from error
    finally:
        _forget_configs()
        sys.modules.update(theirs)


def _forget_configs() -> dict[str, types.ModuleType]:
    """Remove ``configs`` and its modules from those that Python has imported, and return them."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "configs"}


@functools.cache
def _schema() -> dict[str, tuple[type, Any]]:
    """Return the type and the default of each field, by dotted name."""
    config, schema = _default(), {}
    for name, value in flatten(config.to_dict()).items():
        section, _, leaf = name.rpartition(".")
        schema[name] = ((config[section] if section else config).get_type(leaf), value)
    return schema


def _default() -> ConfigDict:
    return pickle.loads(_pickled_default())  # the cheapest copy, because a report reads thousands of configs


@functools.cache
def _pickled_default() -> bytes:
    with _running(CONFIGS / "default.py"):
        return pickle.dumps(runpy.run_path(str(CONFIGS / "default.py"))["get_config"]())


def check_config(config: ConfigDict) -> None:
    """Check field names, types and ranges against ``configs/default.py``.

    Limits set by the data, by other fields or by a registry are left to the code that uses the field.

    Raises:
        UsageError: a field is missing, unknown or invalid. The message names the first and what is expected.
    """
    if not isinstance(config, ConfigDict):
        raise UsageError(f"a {type(config).__name__} is not a config; expected a ConfigDict, as get_config returns it")
    fields = flatten(config.to_dict())
    for name in [*_schema(), *fields]:
        if name not in fields or name not in _schema():
            problem = "is missing" if name in _schema() else "is not a field of a config"
            raise UsageError(f"{name}: {problem}; configs/default.py lists them all")
        _check_field(name, fields[name])


def _check_field(name: str, value: Any) -> None:
    if expected := _expected(name, value):
        raise UsageError(f"{name}={' '.join(reprlib.repr(value).split())}: expected {expected}")


def _expected(name: str, value: Any) -> str:
    """Return which values of a field are valid, in words, or ``""`` if ``value`` is."""
    kind, default = _schema()[name]
    if value is None and default is None:
        return ""
    if name in _CHOICES:
        valid, words = value in _CHOICES[name], f"one of {', '.join(_CHOICES[name])}"
    elif kind is bool:
        valid, words = isinstance(value, bool), "true or false"
    elif kind is str:  # a path cannot hold a null
        valid, words = isinstance(value, str) and "\0" not in value and len(value) < 4096, "text"
    elif name == "augment.small_images":
        valid = _are_small_images(value)
        words = "pairs of a side from 1 to 32 pixels and a rising share of the epochs in (0, 1]"
    else:
        # A tuple of whole numbers, such as one entry a stage, may have any length. Others have the default's.
        is_tuple = kind is tuple
        is_whole = all(type(number) is int for number in default) if is_tuple else kind is int
        low, high = _RANGES.get(name, (0, _MOST if is_whole else _HUGE))
        numbers = [] if is_tuple and not isinstance(value, list | tuple) else list(value) if is_tuple else [value]
        valid = len(numbers) == len(default) if is_tuple and not is_whole else bool(numbers)
        valid = valid and all(type(x) in ((int,) if is_whole else (int, float)) and low <= x <= high for x in numbers)
        count = ("" if is_whole else f"{len(default)} ") if is_tuple else "a "
        words = f"{count}{'whole ' * is_whole}number{'s' * is_tuple} from {low:,} to {high:,}"
    return "" if valid else words + ", or none" * (default is None)


def _are_small_images(value: Any) -> bool:
    """Return True for pairs of a side in pixels and a share of the epochs in (0, 1], with rising shares."""
    try:
        shares = [share for side, share in value if type(side) is int and 1 <= side <= 32 and 0 < share <= 1]
    except (TypeError, ValueError):  # other than pairs
        return False
    return isinstance(value, list | tuple) and len(shares) == len(value) and shares == sorted(set(shares))


def eval_split_name(config: ConfigDict) -> str:
    """Return the split that epochs are evaluated on and the best is chosen on: ``"validation"`` or ``"test"``."""
    return "validation" if config.dataset.validation_size else "test"


def save_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Write ``config.json`` atomically."""
    write_whole(workdir / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """Return the config of a run.

    Raises:
        UserError: ``config.json`` is missing or cannot be read, or a field is invalid.
    """
    path = workdir / CONFIG_FILE
    try:
        return restore_config(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{workdir} holds no run: there is no {CONFIG_FILE} in it") from error
    except Exception as error:  # fields of unexpected types can raise anything
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error


def restore_config(fields: Any) -> ConfigDict:
    """Return the config with the stored fields, locked. Missing fields have their default, unknown ones are ignored.

    Raises:
        UserError: a field is invalid.
        ValueError: these are not fields of a config. Fields of unexpected types can raise other exceptions.
    """
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), dict) for name in ("model", "dataset")):
        raise ValueError("expected an object with the fields of configs/default.py")
    config = pickle.loads(_pickled_config(json.dumps({name: fields[name] for name in fields if name != "seed"})))
    _check_field("seed", seed := fields.get("seed", config.seed))
    config.seed = seed
    return config


@functools.lru_cache(maxsize=1000)
def _pickled_config(text: str) -> bytes:
    """Return a stored config without its seed, because a report reads thousands that differ in nothing else."""
    config = _default()
    with config.ignore_type():
        fields = flatten(json.loads(text))
        config.update_from_flattened_dict({name: value for name, value in fields.items() if name in _schema()})
    check_config(config)
    return pickle.dumps(config)


def check_same_training(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Check that a config trains like that of the run in ``workdir``.

    Raises:
        UserError: fields differ. The message names each, with both values.
    """
    there = load_config(workdir)
    values = flatten(there.to_dict())
    changes = [f"{name}={new!r} (there: {values[name]!r})" for name, new in changed_fields(config, there).items()]
    if changes:
        text = "give another --workdir, or this run's own config (to train weights further: docs/training.md)"
        raise UserError(f"{workdir} holds a run with another config: {', '.join(changes)}; {text}")


def changed_fields(config: ConfigDict, reference: ConfigDict) -> dict[str, Any]:
    """Return the training fields that differ from ``reference``, with their values in ``config``, by dotted name."""
    # A round trip through JSON makes tuples and lists compare equal.
    new, old = (flatten(json.loads(json.dumps(tree.to_dict()))) for tree in (config, reference))
    return {name: new.get(name) for name in sorted(new | old) if new.get(name) != old.get(name) and not _is_free(name)}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted name, such as ``model.pooling``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in NOT_TRAINING)
