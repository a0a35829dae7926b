"""Parser and frame of all commands: flags, errors of one line, and quiet libraries.

A command's module has a docstring, which is its ``--help``, and ends like this:

    def main(argv: list[str] | None = None) -> None:
        parser = cli.Parser("predict", __doc__)
        parser.add_argument("--workdir", required=True, help="run directory or release")
        cli.run(classify_images, parser, argv)

It imports JAX inside of functions, so that ``run`` answers a mistyped flag before JAX starts.
"""

import argparse
import asyncio.log
import contextlib
import difflib
import inspect
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import logging as absl_logging

import jaxresnet
from jaxresnet import extensions, released
from jaxresnet.system.errors import Interrupted, UsageError, UserError

LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # malloc asks the kernel for pages of 2 MiB


class Parser(argparse.ArgumentParser):
    """A parser of flags. ``--data-dir`` means ``--data_dir``, and ``--config.FIELD=VALUE`` goes to ``overrides``."""

    takes_fields = False  # True to accept --config.FIELD=VALUE

    def __init__(self, command: str, description: str | None):
        """Create the parser of ``jaxresnet COMMAND``, or of a script as in ``scripts.benchmark``."""
        super().__init__(
            prog=f"python -m {command}" if "." in command else f"jaxresnet {command}",
            description=(description or "").strip().replace("``", ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        text = "file of own functions that a config or a stored run names as FILE.py:NAME; it is run"
        self.add_argument("--with", dest="own_files", action="append", default=[], metavar="FILE.py", help=text)
        self.add_argument("--version", action="version", version=f"jaxresnet {jaxresnet.__version__}")

    def add_config(self, text: str = "config file, or its name such as final") -> None:
        """Add ``--config`` and the overrides of its fields."""
        self.takes_fields = True
        self.add_argument("--config", required=True, help=f"{text}; single fields as in --config.batch_size=64")

    def add_run(self) -> None:
        """Add the flags of a command that reads a trained run."""
        text = f"run directory, release, or one of {', '.join(released.MODELS)} (default: {released.DEFAULT})"
        self.add_argument("--workdir", type=released.resolve, default=released.DEFAULT, help=text)
        text = '"last" (default), "best", or the step number of a checkpoint that was kept'
        self.add_argument("--checkpoint", default="last", help=text)

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse ``argv``, or the process's own arguments. A mistake gets one line and exit status 2."""
        rest, overrides = [], {}
        known = [option for action in self._actions for option in action.option_strings]
        for word in map(_spell, sys.argv[1:] if argv is None else argv):
            flag, equals, value = word.partition("=")
            if flag.startswith("--config.") and self.takes_fields:
                if not equals:
                    self.error(f"{flag}: expected {flag}=VALUE")
                overrides[flag.removeprefix("--config.")] = value
            elif flag.startswith("--") and flag not in (*known, "--"):
                close = difflib.get_close_matches(flag, known, n=1)
                self.error(f"there is no flag {flag}" + (f"; did you mean {close[0]}?" if close else ""))
            else:
                rest.append(word)
        parsed = self.parse_args(rest)
        parsed.overrides = overrides
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print one line and exit."""
        print(f"jaxresnet: {message} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


def _spell(word: str) -> str:
    flag, equals, value = word.partition("=")
    if re.match(r"--[a-z]", flag):
        flag = "--" + flag[2:].replace("-", "_")
    return flag + equals + value


def count(text: str) -> int:
    """Return a positive number from the command line."""
    if int(text) < 1:
        raise ValueError
    return int(text)


count.__name__ = "positive number"  # argparse names the function in its message


def run(
    main: Callable[[argparse.Namespace], None],
    parser: Parser,
    argv: Sequence[str] | None = None,
    *,
    trains: bool = False,
) -> None:
    """Run a command with its flags, as the process's own if ``argv`` is None. One that ``trains`` gets large pages.

    A user's mistake, an interruption, or an error of the system is reported as one line on stderr. The exit status is 2
    for a wrong command line or config, 1 for what fails later, and 128 + n for signal n.
    """
    with command():
        arguments = parser.parse(argv)
        if trains and argv is None:
            _use_large_pages()
        if sys.stderr.isatty() and "jax" not in sys.modules:
            print("jaxresnet: starting ...", file=sys.stderr)  # JAX takes seconds to import.
        for file in arguments.own_files:
            extensions.use(file)
        main(arguments)


def _use_large_pages() -> None:
    """Start the process again with ``LARGE_PAGES``, because glibc reads them only at its start.

    XLA:CPU takes a buffer of hundreds of MB for each step of a large network, and returns it. In pages of 4 KB, that
    costs a fifth of the final model's processor time.
    """
    chosen = "GLIBC_TUNABLES" in os.environ or os.environ.get("JAXRESNET_TUNE_MALLOC") == "0"
    if sys.platform == "linux" and not chosen and "jax" not in sys.modules:
        os.environ |= LARGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Report errors as ``run`` does, also those of imports and of printing."""
    _settle_streams()
    _silence_libraries()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # The reader closed the pipe, as in `... | head`.
        _end(1)
    except UserError as error:
        _end(2 if isinstance(error, UsageError) else 1, str(error))
    except OSError as error:  # a full disk, or a folder without read permission
        _end(1, f"{error}; fix that, and run the same command again")
    except Interrupted as interrupted:
        _end(interrupted.exit_status, str(interrupted))
    except KeyboardInterrupt:
        _end(128 + signal.SIGINT, "interrupted")


def _end(status: int, message: str = "") -> NoReturn:
    with contextlib.suppress(OSError):  # The reader may have been stopped too, as in `... 2>&1 | tee log`.
        if message:
            print(f"jaxresnet: {message}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # Python flushes again when it exits, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _settle_streams() -> None:
    """Make what a terminal or a daemon decides the same everywhere: open streams, and no character that fails."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed, so that the next file to be opened would get its number and its output
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # A notebook's is another type.
        sys.stdout.reconfigure(errors="replace")


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
