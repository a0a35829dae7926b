"""Optimizers, augmentation stages, blocks and losses by name, also from a user's own file.

A config names a function of a file as ``FILE.py:NAME``, and training runs that file. A stored run never causes code to
run: commands that read one must be given the file with ``--with``, and compare its checksum with ``config.code``.
"""

import functools
import hashlib
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxresnet.system.errors import UserError, one_line, user_path

_USED: dict[str, types.ModuleType] = {}  # files that were run, by name


def use(path: str | pathlib.Path) -> None:
    """Run a file of functions, so that configs can name them, or raise UserError. An unchanged file runs once."""
    path = user_path(path).resolve()
    try:
        source = path.read_bytes()
        checksum = hashlib.sha256(source).hexdigest()
        if path.name not in _USED or _checksum(path.name) != checksum:
            # Each version is a module of its own, because Flax looks up the module of a class.
            module = types.ModuleType(f"{path.stem}_{checksum}")
            module.__file__, sys.modules[module.__name__] = str(path), module
            exec(compile(source, path, "exec"), vars(module))
            _USED[path.name] = module
    except Exception as error:  # the file's own code can raise anything
        raise UserError(f"{path} cannot be run: {one_line(error)} ({type(error).__name__})") from error


def _checksum(name: str) -> str:
    return _USED[name].__name__.rpartition("_")[2]


def use_all(config: ConfigDict, folder: pathlib.Path | None = None) -> None:
    """Run the files that a config names, and set ``config.code``.

    A file is looked up in ``folder``, then where a file of its name was run before, then in the current folder.
    """
    used = set()
    for field in ("optimizer.name", "augment.stages", "model.block", "loss"):
        text = functools.reduce(getattr, field.split("."), config)
        for file in re.findall(r"([^,]+\.py):", text):
            name = pathlib.Path(file).name
            before = [pathlib.Path(str(_USED[name].__file__))] if name in _USED else []
            places = [folder / file] if folder else before if file == name else []  # a path says which file is meant
            try:
                use(next((place for place in (*places, pathlib.Path(file), *before) if place.is_file()), file))
            except UserError as error:
                raise UserError(f"{field}={text}: {error}") from error
            used.add(name)
    config.code = ",".join(f"{name}:{_checksum(name)}" for name in sorted(used))


def check_used(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raise UserError if a file with which the run in ``workdir`` was trained was not run, or has changed."""
    for name, checksum in re.findall(r"([^,]+):(\w+)", config.code):
        if name not in _USED:
            raise UserError(f"{workdir} was trained with code of {name}; if you trust it, give --with=PATH/{name}")
        if _checksum(name) != checksum:
            raise UserError(
                f"{_USED[name].__file__} is not the {name} that {workdir} was trained with (SHA-256 "
                f"{_checksum(name)[:12]}, then {checksum[:12]}); give the version of that time"
            )


def find(choices: Mapping[str, Any], field: str, name: str) -> Any:
    """Return the entry of ``choices`` or the function of a file that a config's ``field`` names, or raise UserError."""
    file, _, function = name.rpartition(":")
    if name not in choices and not file.endswith(".py"):
        raise UserError(f"{field}={name!r}: expected one of {', '.join([*sorted(choices), 'FILE.py:NAME'])}")
    module = _USED.get(pathlib.Path(file).name)
    if name not in choices and not callable(getattr(module, function, None)):
        problem = f"has no function {function}" if module else f"was not run; if you trust it, give --with={file}"
        raise UserError(f"{field}={name!r}: {file} {problem}")
    return choices[name] if name in choices else getattr(module, function)


def options_of(function: Callable[..., Any], fields: Mapping[str, Any], section: str, skip: int = 0) -> dict[str, Any]:
    """Return the fields that a function's signature names after ``skip`` parameters. Raise UserError for others."""
    parameters = [*inspect.signature(function).parameters.values()][skip:]
    for parameter in parameters:
        if parameter.name not in fields and parameter.default is parameter.empty:
            raise UserError(f"{function.__name__} takes {parameter.name!r}, but {section} has no such field")
    return {parameter.name: fields[parameter.name] for parameter in parameters if parameter.name in fields}
