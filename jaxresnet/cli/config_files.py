"""Config files: where they lie, and what they hold.

A config file has a function ``get_config``, which returns a ``ConfigDict``. A table of experiments has arms: its
``get_config`` takes the name of one, ``ARMS`` lists them, and ``TITLE`` is its title in the report.
"""

import importlib
import pathlib
import runpy
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxresnet.system.errors import UserError, one_line, user_path

_PACKAGE = pathlib.Path(__file__).parents[1]

# The config files of this project: in a clone beside the package, when installed from a wheel inside of it.
CONFIGS = next(
    (folder for folder in (_PACKAGE.parent / "configs", _PACKAGE / "configs") if (folder / "default.py").is_file()),
    _PACKAGE / "configs",
)


class Experiment(NamedTuple):
    """Config file of one experiment, or of a table of several.

    Attributes:
        path: path of the file.
        title: title of the table, or ``""`` if it is none.
        arms: names of the table's rows in order, or ``("",)`` if it has no arms.
        get_config: function from the name of an arm, or ``""`` if it has no arms, to the locked config.
        contents: all names that the file defines, such as ``CLAIMS``.
    """

    path: pathlib.Path
    title: str
    arms: tuple[str, ...]
    get_config: Callable[[str], ConfigDict]
    contents: dict[str, Any]


def find_config_file(name: str) -> pathlib.Path:
    """Return the path of a config file.

    Args:
        name: path of a file, or the name of one in ``CONFIGS``: ``final``, ``final.py`` or ``configs/final.py``.

    Raises:
        UserError: there is no such file.
    """
    path = user_path(name)
    if path.is_file():
        return path
    shipped = CONFIGS / f"{path.name.removesuffix('.py')}.py"
    if shipped.is_file() and path.parent in (pathlib.Path(), pathlib.Path("configs")):
        return shipped
    known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.py") if file.stem not in ("arms", "default")))
    raise UserError(f"there is no file {name!r}; give the path of a config file, or one of {known}")


def let_configs_import_each_other() -> None:
    """Make the files in ``CONFIGS`` importable as ``configs.NAME``, also outside of a clone."""
    try:
        package = importlib.import_module("configs")
        package.__path__  # noqa: B018  # a file configs.py of the user's has none
    except (ModuleNotFoundError, AttributeError):
        package = sys.modules["configs"] = types.ModuleType("configs")
        package.__path__ = []
    if str(CONFIGS) not in package.__path__:
        package.__path__ = [*package.__path__, str(CONFIGS)]


def load_experiment(path: pathlib.Path) -> Experiment:
    """Load a config file.

    Raises:
        UserError: missing file, or one that cannot be run.
    """
    contents = _run(path)
    get_config = contents["get_config"]

    def get_checked_config(arm: str = "") -> ConfigDict:
        return _checked(get_config(*([arm] if arm else [])), path)

    arms = tuple(contents["ARMS"]) if "ARMS" in contents else ("",)
    return Experiment(path, contents.get("TITLE", ""), arms, get_checked_config, contents)


def get_config(name: str | pathlib.Path) -> ConfigDict:
    """Return a config. Its fields may be changed before it is trained.

    Args:
        name: name or path of a config file, and after a colon an arm if it has arms: ``"final"``, ``"mine.py"``,
            ``"scheduler:linear"``.

    Raises:
        UserError: there is no such file or arm, or the file returns no config.
    """
    file, colon, arm = str(name).partition(":")
    contents = _run(find_config_file(file))
    try:
        config = contents["get_config"](*([arm] if colon else []))
    except Exception as error:  # The file's own code can raise anything.
        if "positional argument" not in str(error):
            kind = "" if isinstance(error, ValueError) else f" ({type(error).__name__})"
            raise UserError(f"{one_line(error)}{kind}") from error
        if colon:
            raise UserError(f"{file} has no arms, so no {arm!r}; give {file}") from error
        raise UserError(
            f"{file} has arms; give one, as in {file}:{next(iter(contents.get('ARMS', ['ARM'])))}"
        ) from error
    return _checked(config, file)


def _checked(config: object, file: str | pathlib.Path) -> ConfigDict:
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {file} returned a {type(config).__name__}; expected a ConfigDict")
    return config


def _run(path: pathlib.Path) -> dict[str, Any]:
    let_configs_import_each_other()
    try:
        contents = runpy.run_path(str(path))
    except FileNotFoundError as error:
        raise UserError(f"there is no config file {path}") from error
    except Exception as error:  # as above
        raise UserError(f"{path} cannot be read as a config: {one_line(error)} ({type(error).__name__})") from error
    if not callable(contents.get("get_config")):
        raise UserError(f"{path} is not a config: there is no get_config in it")
    return contents
