"""Config files with arms: the tables that a sweep runs and the report redraws."""

import pathlib
import runpy
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxresnet.errors import UserError, one_line


class Experiment(NamedTuple):
    """A config file: one experiment, or a table of several.

    Attributes:
        path: of the file.
        title: of the table; the name of the file where it has no arms.
        arms: the names of its rows, in order; ``("",)`` where it has no arms.
        get_config: the locked config of an arm; of ``""`` where it has no arms.
    """

    path: pathlib.Path
    title: str
    arms: tuple[str, ...]
    get_config: Callable[[str], ConfigDict]


def load_experiment(path: pathlib.Path) -> Experiment:
    """Reads a config file.

    Raises:
        UserError: there is no such file, or it cannot be run.
    """
    try:
        contents = runpy.run_path(str(path))
    except FileNotFoundError as error:
        raise UserError(f"there is no config file {path}") from error
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: {error}; run from the folder that holds configs/") from error
    except Exception as error:  # whatever the file itself raises
        raise UserError(f"{path} cannot be read as a config: {one_line(error)}") from error
    if "get_config" not in contents:
        raise UserError(f"{path} is no config: there is no get_config in it")
    get_config = contents["get_config"]
    if "ARMS" not in contents:
        return Experiment(path, path.stem, ("",), lambda arm: get_config())
    return Experiment(path, contents["TITLE"], tuple(contents["ARMS"]), get_config)
