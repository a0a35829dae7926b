"""Ctrl-C while a command's modules are imported, which takes seconds: one line and status 130, no traceback.

The process ends on the spot. KeyboardInterrupt would not do: Python reports and forgets one that is raised in a
callback, of which importing has many.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

LINE = "jaxresnet: interrupted"


def is_command_starting() -> bool:
    """Whether ``python -m jaxresnet.COMMAND`` is still to import that module: until it has, its path is ``-m``."""
    return sys.argv[:1] == ["-m"] and any(word.removeprefix("-m").startswith("jaxresnet.") for word in sys.orig_argv)


def end_at_once() -> None:
    """From now on Ctrl-C ends the process on the spot, unless it is ignored, as in a shell's background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again, after which what is half done is cleared away."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """For imports within a command."""
    end_at_once()
    try:
        yield
    finally:
        raise_again()


def _end(number: int, frame: object) -> None:
    os.write(sys.stderr.fileno(), f"{LINE}\n".encode())
    os._exit(128 + number)
