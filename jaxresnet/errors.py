"""The exceptions that the commands print as one line."""

import pathlib
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something the user can mend. Its message is one line: what was wrong, and what to do."""


class Diverged(UserError):
    """Training came to NaN or infinity."""


class Interrupted(Exception):
    """The run was asked to stop and has saved itself; ``exit_status`` is the shell's 128 + signal."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status


def user_path(path: str) -> pathlib.Path:
    """A path that a user gave, with ~ expanded.

    Raises:
        UserError: ~name of nobody.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from error


def choose(choices: dict[str, T], field: str, name: str) -> T:
    """The entry of ``choices`` that a config's ``field`` names.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in choices:
        raise UserError(f"{field}={name!r}: expected one of {', '.join(sorted(choices))}")
    return choices[name]


def one_line(error: Exception) -> str:
    """What another library's exception says, short enough to stand within a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
