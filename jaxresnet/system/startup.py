"""Prepare a command before it imports JAX."""

import os
import re
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType

from jaxresnet.system import malloc, signals, terminal
from jaxresnet.system.errors import one_line


def begin_command() -> None:
    """Prepare the process of a command. Do nothing in a process that only imports the package."""
    if not signals.is_command_starting():
        return
    malloc.restart_with_large_pages()  # First, because the new process repeats every import.
    signals.end_at_once()
    sys.excepthook = _report
    terminal.show_sign_of_life()


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, Exception) and (blame := blame_environment(error, os.environ)):
        print(f"jaxresnet: {blame}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def blame_environment(error: Exception, environment: Mapping[str, str]) -> str | None:
    """Name the environment variable that an error is about, in one line. Return None if it is about none.

    JAX and matplotlib read variables when they are imported or first used, each in its own way. Their messages quote
    the value, but not always the name.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not re.search(r"[\\/](jax|matplotlib)[\\/]", frames[-1].filename):
        return None
    names = [name for name, value in environment.items() if name.startswith(("JAX_", "MPL")) and value]
    quoted = [name for name in names if any(f"{mark}{environment[name]}{mark}" in str(error) for mark in "'\"")]
    if not quoted and "JAX_PLATFORMS" in names and frames[-1].filename.endswith("xla_bridge.py"):
        quoted = ["JAX_PLATFORMS"]  # its error for a platform without a plugin has no message
    if not quoted:
        return None
    reason = one_line(error) if str(error) else "this installation of JAX has no such platform"
    return f"{quoted[0]}={environment[quoted[0]]} in the environment: {reason}; change it or unset it"
