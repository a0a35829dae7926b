"""Stop on signals, and train one run with several processes, on one or many hosts, by ``jax.distributed``.

All processes run the same program on the same workdir and data. Their devices exchange what a step needs. They must
agree on decisions that depend on their own clocks and signals. Only the first writes files and prints to stdout.
"""

import contextlib
import faulthandler
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxresnet.system.errors import Diverged, UsageError, UserError, one_line

T = TypeVar("T")

# A process that is silent for this long counts as dead, and the others end.
HEARTBEAT_SECONDS = 30

_HANGUP = getattr(signal, "SIGHUP", None)  # None on Windows
SIGNALS = (signal.SIGINT, signal.SIGTERM, *filter(None, [_HANGUP]))


def connect(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes of the run. Call this before any other use of JAX.

    Args:
        coordinator: first process's ``host:port``, or ``"auto"`` under SLURM, ``mpirun`` or on a TPU pod.
        num_processes: number of processes, unless ``"auto"``.
        process_id: number of this process, from 0, unless ``"auto"``.

    Raises:
        UserError: a flag is missing, invalid or out of range, or the processes do not find each other.
    """
    flag, is_auto = f"--coordinator={coordinator}", coordinator == "auto"
    if not is_auto and not re.fullmatch(r".+:[0-9]{1,5}", coordinator):
        raise UsageError(f"{flag}: expected HOST:PORT or auto")
    if not is_auto and (num_processes is None or process_id is None or not 0 <= process_id < num_processes):
        raise UsageError(f"{flag}: give --num_processes, and --process_id from 0 to one less than that, too")
    try:
        jax.distributed.initialize(
            None if is_auto else coordinator,
            None if is_auto else num_processes,
            None if is_auto else process_id,
            initialization_timeout=300,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as error:  # JAX raises several types
        if is_auto and "coordinator_address" in str(error):  # JAX's name for what it could not find out
            problem = "this is no task of srun or mpirun, and no TPU pod"
            raise UsageError(f"{flag}: {problem}; start the command by one of these, or give HOST:PORT") from error
        raise UserError(f"{flag}: the processes did not find each other ({one_line(error)})") from error
    faulthandler.disable()  # if another process dies, JAX ends this one with a message that a dump would bury
    try:
        jax.devices()  # the processes tell each other their devices
    except RuntimeError as error:
        _end_with_others(_lost(error))
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)


@contextlib.contextmanager
def ending_others_too() -> Iterator[None]:
    """Exit at once with ``os._exit`` on an error. A normal exit would deadlock waiting for the other processes.

    Errors pass through if there is only one process, or if all fail alike because the run diverged.
    """
    try:
        yield
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1 or isinstance(error, Diverged):
            raise
        _end_with_others(_lost(error) if isinstance(error, jax.errors.JaxRuntimeError) else str(error))


def _lost(error: Exception) -> str:
    reason = f"another process of this run has ended, or JAX failed here ({one_line(error)})"
    return f"{reason}; start all processes again to resume"


def _end_with_others(reason: str) -> NoReturn:
    """Exit without Python's cleanup, in which JAX waits for the other processes."""
    with contextlib.suppress(OSError):  # the reader of stderr may have ended too
        print(f"jaxresnet: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def is_first() -> bool:
    """Return True if this is the only process or the first, which alone writes."""
    return jax.process_index() == 0


def first_before_others(action: Callable[[], T]) -> T:
    """Call ``action`` in the first process, then in the others, where it may find the first's files."""
    if is_first():
        result = action()
    multihost_utils.sync_global_devices("done by the first")
    return result if is_first() else action()


def in_first(action: Callable[[], object], name: str) -> None:
    """Call ``action`` in the first process. The others wait for it at the barrier ``name``."""
    if is_first():
        action()
    multihost_utils.sync_global_devices(name)


def largest(number: int) -> int:
    """Return the largest of the processes' numbers, so that all act alike on signals and flags."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


@contextlib.contextmanager
def stop_signal() -> Iterator[list[signal.Signals]]:
    """Yield a list that receives the first of ``SIGNALS``, in time to save a run.

    A second signal has its default effect, except SIGHUP.
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


def _leave_terminal() -> None:
    """Send what would go to a terminal to /dev/null, because writing to a closed terminal is an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the stream is closed, or has no file
            # isatty() is False for a terminal that was closed.
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
