"""Exceptions that the commands print as one line."""

import pathlib
import re


class UserError(Exception):
    """An error that the user can fix. Its message is one line: what is wrong, and what to do."""


class UsageError(UserError):
    """A mistake in a command line or a config."""


class Diverged(UserError):
    """A loss or parameter that became NaN or infinite."""


class Interrupted(Exception):
    """A run's stop by a signal, after it was saved. ``exit_status`` is the shell's 128 + signal number."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status


def user_path(path: str | pathlib.Path) -> pathlib.Path:
    """Return a path that a user gave, with ``~`` expanded.

    Raises:
        UsageError: the path is empty, the address of a remote one, or in the home folder of an unknown user.
    """
    if not str(path):  # as --workdir=$RUN is if RUN is not set; it would be the current folder
        raise UsageError("a path is empty; give a name, or . for the current folder")
    if re.match("[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE):  # a Path has lost the second slash
        raise UsageError(f"{path} is an address: give a path on this machine, such as that of a mounted bucket")
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: {error}") from error


def one_line(error: Exception) -> str:
    """Return an exception's message as one line of at most 200 characters, or its type if it has no message."""
    return " ".join(str(error).split())[:200] or type(error).__name__
