"""The frame of a command: one-line errors, and quiet libraries."""

import asyncio.log
import contextlib
import inspect
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from absl import logging as absl_logging

from jaxresnet.system import signals, terminal
from jaxresnet.system.errors import Interrupted, UserError


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Report user errors and interruptions as one line on stderr and exit with a nonzero status."""
    signals.raise_again()  # The module's own imports, which Ctrl-C ends silently, are done.
    _silence_libraries()
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"jaxresnet: {error}")
    except BrokenPipeError:  # The reader closed the pipe, as in `... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # For example, a folder without read permission.
        sys.exit(f"jaxresnet: {error}")
    except Interrupted as interrupted:
        _say(f"jaxresnet: {interrupted}")
        sys.exit(interrupted.exit_status)
    except KeyboardInterrupt:
        _say("jaxresnet: interrupted")
        sys.exit(128 + signal.SIGINT)
    finally:
        terminal.end_sign_of_life()


def _silence_libraries() -> None:
    """Silence what libraries log of their own work. Their errors are raised as well, and reported once."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs about 30 lines per save, and tracebacks of its errors.
    # If one file of a checkpoint cannot be read or written, orbax raises that error and drops the coroutines of the
    # others, which Python reports in four ways.
    asyncio.log.logger.setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    previous = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if not inspect.iscoroutine(unraisable.object) and str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = report


def _say(line: str) -> None:
    terminal.end_sign_of_life()
    with contextlib.suppress(OSError):  # The reader may have been stopped too, as in `... 2>&1 | tee log`.
        print(line, file=sys.stderr, flush=True)


def refuse_arguments(argv: list[str]) -> None:
    """Check that nothing is left of ``argv`` after the flags are parsed.

    Raises:
        UserError: a word that is not a flag.
    """
    if argv[1:]:
        raise UserError(f"{argv[1]!r} is not a flag; did you mean --{argv[1]}?")
