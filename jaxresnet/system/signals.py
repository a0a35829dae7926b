"""Answer SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal) in time to save a run."""

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Iterator
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # None on Windows
SIGNALS = (signal.SIGINT, signal.SIGTERM, *filter(None, [_HANGUP]))


def _leave_terminal() -> None:
    """Send what would go to a terminal to /dev/null, because writing to a closed terminal is an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the stream is closed, or has no file
            # isatty() is False for a terminal that was closed.
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def stop_signal() -> Iterator[list[signal.Signals]]:
    """Yield a list that receives the first of ``SIGNALS``. A second one has its default effect, except SIGHUP.

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
