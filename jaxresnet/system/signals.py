"""Handle SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal).

A run saves first. A command with nothing to save ends at once.
"""

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # None on Windows
SIGNALS = (signal.SIGINT, signal.SIGTERM, *filter(None, [_HANGUP]))


def is_command_starting() -> bool:
    """Return True if ``python -m jaxresnet.COMMAND`` has yet to import the command. Until then its path is ``-m``."""
    return sys.argv[:1] == ["-m"] and any(word.removeprefix("-m").startswith("jaxresnet.") for word in sys.orig_argv)


def is_command() -> bool:
    """Return True if this process runs a command of this package, not a notebook or another program."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("jaxresnet.")


def end_at_once() -> None:
    """Let Ctrl-C end the process as the system does, without a message, unless it is ignored or handled.

    KeyboardInterrupt is unreliable during imports: Python swallows it when it is raised inside a callback.
    """
    if not _is_init() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Let ``SIGNALS`` end a command as the system does, whatever it is doing.

    Use it while there is nothing to save. Python's own handlers would wait for XLA, which compiles for seconds. Nothing
    changes for ignored signals, in programs other than commands, outside of the main thread, and for process 1.
    """
    handlers: dict[signal.Signals, Any] = {}
    if is_command() and not _is_init() and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                handlers[number] = handler
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_init() -> bool:
    """Return True for process 1 of a container. Linux drops a signal for which that process has no handler."""
    return os.getpid() == 1


def _leave_terminal() -> None:
    """Send what would go to a terminal to /dev/null, because writing to a closed terminal is an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the stream is closed, or has no file
            # isatty() is False for a terminal that was closed.
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def stop_signal() -> Iterator[list[signal.Signals]]:
    """Yield a list that receives the first of ``SIGNALS``. A second one acts as it would without this.

    A second SIGHUP is ignored.

    Ignored signals stay ignored, such as Ctrl-C in a background job of a shell, and SIGHUP under nohup.
    """
    received: list[signal.Signals] = []
    previous: dict[signal.Signals, Any] = {}

    def receive(number: int, frame: object) -> None:
        received.append(signal.Signals(number))
        if number == _HANGUP:
            _leave_terminal()
        for other, handler in previous.items():
            signal.signal(other, handler)
        if number == _HANGUP:  # a shell and its terminal each send one
            signal.signal(number, signal.SIG_IGN)

    try:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, receive)
    except ValueError:  # outside of the main thread, as in some notebooks, signals stay as they are
        pass
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
