"""Config files with arms: the tables that a sweep runs and a report redraws."""

import pathlib
import runpy
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxresnet.system.errors import UserError, one_line


class Experiment(NamedTuple):
    """Config file of one experiment, or of a table of several.

    Attributes:
        path: path of the file.
        title: title of the table, or the file's name if it has no arms.
        arms: names of the table's rows in order, or ``("",)`` if it has no arms.
        get_config: function from the name of an arm, or ``""`` if it has no arms, to the locked config.
    """

    path: pathlib.Path
    title: str
    arms: tuple[str, ...]
    get_config: Callable[[str], ConfigDict]


def load_experiment(path: pathlib.Path) -> Experiment:
    """Load a config file.

    Raises:
        UserError: missing file, or one that cannot be run.
    """
    try:
        contents = runpy.run_path(str(path))
    except FileNotFoundError as error:
        raise UserError(f"there is no config file {path}") from error
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: {error}; run from the folder that holds configs/") from error
    except Exception as error:  # The file's own code can raise anything.
        raise UserError(f"{path} cannot be read as a config: {one_line(error)}") from error
    if "get_config" not in contents:
        raise UserError(f"{path} is not a config: there is no get_config in it")
    get_config = contents["get_config"]
    if "ARMS" not in contents:
        return Experiment(path, path.stem, ("",), lambda arm: get_config())
    return Experiment(path, contents["TITLE"], tuple(contents["ARMS"]), get_config)
