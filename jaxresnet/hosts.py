"""Several processes, on one host or on many, that train one run together, by ``jax.distributed``.

All of them run the same program on the same workdir and data. Devices exchange what a step needs; what processes decide
from their own clocks and signals they have to agree on. Only the first writes files and speaks on stdout.
"""

import contextlib
import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxresnet.errors import Diverged, UserError, one_line

T = TypeVar("T")

# A process that is silent for so long has died, and the others end.
HEARTBEAT_SECONDS = 30


def connect(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the run. To be called before anything else is asked of JAX.

    Args:
        coordinator: ``"auto"`` where SLURM, a TPU pod or ``mpirun`` tells; or the first process's ``host:port``.
        num_processes: how many there are, unless ``"auto"``.
        process_id: of this one, from 0, unless ``"auto"``.

    Raises:
        UserError: they cannot be joined.
    """
    if coordinator == "auto":
        address, num_processes, process_id = None, None, None
    elif num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise UserError(
            f"--coordinator={coordinator}: give --num_processes, and --process_id from 0 to one less than that, too"
        )
    else:
        address = coordinator
    try:
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            initialization_timeout=300,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as error:  # of several types
        raise UserError(
            f"--coordinator={coordinator}: the processes did not find each other ({one_line(error)})"
        ) from error
    faulthandler.disable()  # where another process dies, JAX ends this one with a message, which a dump would bury
    try:
        jax.devices()  # of which the processes tell each other
    except RuntimeError as error:
        _end_with_others(_lost(error))
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)


@contextlib.contextmanager
def ending_others_too() -> Iterator[None]:
    """Ends one of several processes where it fails: Python's own end would wait for the others, and they for this one.

    Changes nothing for a process on its own, nor where all of them fail alike, as when a run diverges.
    """
    try:
        yield
    except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1 or isinstance(error, Diverged):
            raise
        _end_with_others(_lost(error) if isinstance(error, jax.errors.JaxRuntimeError) else str(error))


def _lost(error: Exception) -> str:
    return (
        f"another process of this run has ended, or JAX failed here ({one_line(error)}); "
        "start all processes again, and the run goes on"
    )


def _end_with_others(reason: str) -> NoReturn:
    """Without Python's own end, in which JAX waits for the other processes."""
    with contextlib.suppress(OSError):  # who reads may have ended, too
        print(f"jaxresnet: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def is_first() -> bool:
    """Whether this is the process that writes; a process on its own is."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Until every process is here, which ``name`` tells them."""
    multihost_utils.sync_global_devices(name)


def first_before_others(action: Callable[[], T]) -> T:
    """What ``action`` returns, which the first process calls alone: it may leave files that the others then find."""
    if is_first():
        result = action()
    wait_for_all("done by the first")
    return result if is_first() else action()


def in_first(action: Callable[[], object], name: str) -> None:
    """Calls ``action`` in the first process; the others wait until it is done."""
    if is_first():
        action()
    wait_for_all(name)


def largest(number: int) -> int:
    """The largest of the numbers that the processes give, so that all do the same: signals, flags."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())
