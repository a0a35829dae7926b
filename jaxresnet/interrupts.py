"""SIGINT, which is Ctrl-C, and SIGTERM: a run saves itself first; a command that has nothing to save ends on the spot.

While modules are imported, which takes seconds, KeyboardInterrupt would not do: Python reports and forgets one that is
raised in a callback, of which importing has many. While XLA compiles, Python calls no handlers at all.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

LINE = "jaxresnet: interrupted"


def is_command_starting() -> bool:
    """Whether ``python -m jaxresnet.COMMAND`` is still to import that module: until it has, its path is ``-m``."""
    return sys.argv[:1] == ["-m"] and any(word.removeprefix("-m").startswith("jaxresnet.") for word in sys.orig_argv)


def is_command() -> bool:
    """Whether such a module is running, and not a notebook or another program."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("jaxresnet.")


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


@contextlib.contextmanager
def ending_compilation_too(line: str) -> Iterator[None]:
    """For what leaves nothing to save: SIGINT and SIGTERM end a command on the spot, whatever it is doing.

    Changes nothing in other programs than commands, and outside of the main thread.

    Args:
        line: for stderr, with ``{signal}`` where its name is to stand.
    """
    if not is_command() or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def wait() -> None:
        while number := os.read(reader, 1):  # nothing once ``writer`` is closed
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                _end(number[0], None, line.format(signal=signal.Signals(number[0]).name))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    previous = signal.set_wakeup_fd(writer)  # where signals that have a handler are written to at once
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def stop_signal() -> Iterator[list[signal.Signals]]:
    """A list that the first SIGINT or SIGTERM is put into; a second one acts at once, as it would without this.

    One that is ignored stays so, as Ctrl-C in a shell's background.
    """
    received: list[signal.Signals] = []
    previous: dict[signal.Signals, Any] = {}

    def receive(number: int, frame: object) -> None:
        received.append(signal.Signals(number))
        for other, handler in previous.items():
            signal.signal(other, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, receive)
    except ValueError:  # not in the main thread, as in some notebooks: signals stay as they are
        pass
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(number: int, frame: object, line: str = LINE) -> None:
    start = "\n" if sys.stderr.isatty() else ""  # after a terminal's ^C, or a bar
    with contextlib.suppress(OSError):  # who reads may have ended, too
        os.write(sys.stderr.fileno(), f"{start}{line}\n".encode())
    os._exit(128 + number)
