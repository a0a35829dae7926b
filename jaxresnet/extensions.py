"""Optimizers, augmentation stages, blocks and losses by name, also from a user's own file.

A config names a function of a file as ``FILE.py:NAME``, and training runs that file. A stored run never causes code to
run: commands that read one must be given the file with ``--with``, and compare its checksum with ``config.code``.
"""

import copy
import hashlib
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from ml_collections import ConfigDict

from jaxresnet.system.errors import UserError, one_line

T = TypeVar("T")


class _Code(NamedTuple):
    path: pathlib.Path
    checksum: str
    names: dict[str, Any]


_USED: dict[str, _Code] = {}  # files that were run, by name


def use(path: str | pathlib.Path) -> None:
    """Run a file of functions, so that configs can name them. A file that has not changed is not run again.

    Raises:
        UserError: the file is missing, or it raises an exception.
    """
    path = pathlib.Path(path).expanduser()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of your file of functions") from error
    checksum = hashlib.sha256(source).hexdigest()
    if path.name in _USED and _USED[path.name].checksum == checksum:
        return
    module = types.ModuleType(f"{path.stem}_{checksum[:8]}")
    module.__file__, sys.modules[module.__name__] = str(path), module  # dataclasses look their module up
    try:
        exec(compile(source, path, "exec"), vars(module))
    except Exception as error:  # the file's own code can raise anything
        raise UserError(f"{path} cannot be run: {one_line(error)} ({type(error).__name__})") from error
    _USED[path.name] = _Code(path, checksum, vars(module))


def use_all(config: ConfigDict) -> ConfigDict:
    """Run the files that a config names, and return the config with their names and checksums in ``code``.

    Raises:
        UserError: a file is missing, or it raises an exception.
    """
    used = set()
    for field in ("optimizer.name", "augment.stages", "model.block", "loss"):
        *section, leaf = field.split(".")
        text = (config[section[0]] if section else config)[leaf]
        for file in re.findall(r"([^,]+\.py):", text):
            name = pathlib.Path(file).name
            try:
                use(_USED[name].path if name in _USED else file)
            except UserError as error:
                raise UserError(f"{field}={text!r}: {error}") from error
            used.add(name)
    config = copy.deepcopy(config)
    config.code = ",".join(f"{name}:{_USED[name].checksum}" for name in sorted(used))
    return config


def check_used(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Check that the files with which the run in ``workdir`` was trained were run, in the same version.

    Raises:
        UserError: a file was not run, or has changed.
    """
    for name, _, checksum in (entry.partition(":") for entry in config.code.split(",") if entry):
        if name not in _USED:
            raise UserError(f"{workdir} was trained with code of {name}; if you trust it, give --with=PATH/{name}")
        if _USED[name].checksum != checksum:
            raise UserError(
                f"{_USED[name].path} is not the {name} that {workdir} was trained with (SHA-256 "
                f"{_USED[name].checksum[:12]}, then {checksum[:12]}); give the version of that time"
            )


def find(choices: Mapping[str, T], field: str, name: str) -> T:
    """Return the entry of ``choices`` that a config's ``field`` names, or the function of a file that was run.

    Raises:
        UserError: there is no such entry or function, or the file was not run.
    """
    file, _, function = name.rpartition(":")
    if not file.endswith(".py"):
        if name not in choices:
            raise UserError(f"{field}={name!r}: expected one of {', '.join([*sorted(choices), 'FILE.py:NAME'])}")
        return choices[name]
    code = _USED.get(pathlib.Path(file).name)
    if code is None:
        raise UserError(f"{field}={name!r}: {file} was not run; if you trust it, give --with={file}")
    if not callable(code.names.get(function)):
        raise UserError(f"{field}={name!r}: there is no function {function} in {code.path}")
    return cast(T, code.names[function])


def options_of(function: Callable[..., Any], fields: Mapping[str, Any], section: str, skip: int = 0) -> dict[str, Any]:
    """Return the fields that a function's signature names after its first ``skip`` parameters.

    Raises:
        UserError: a parameter is neither a field of ``section`` nor has a default.
    """
    parameters = [*inspect.signature(function).parameters.values()][skip:]
    for parameter in parameters:
        if parameter.name not in fields and parameter.default is parameter.empty:
            raise UserError(f"{function.__name__} takes {parameter.name!r}, but {section} has no such field")
    return {parameter.name: fields[parameter.name] for parameter in parameters if parameter.name in fields}
