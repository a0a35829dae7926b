"""Parts that all commands share: checks of flags, one-line errors and quiet libraries."""

import contextlib
import difflib
import os
import pathlib
import re
import signal
import sys
from collections.abc import Iterator

from absl import flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet.system import signals
from jaxresnet.system.errors import Interrupted, UserError
from jaxresnet.workdir import config as config_lib

CHECKPOINT_HELP = '"last" (default), "best", or the step number of a checkpoint that was kept'


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Report user errors and interruptions as one line on stderr and exit with a nonzero status."""
    signals.raise_again()  # The module's own imports, which Ctrl-C ends silently, are done.
    logging.set_verbosity(logging.ERROR)  # Orbax logs about 30 lines per save.
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


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # The reader may have been stopped too, as in `... 2>&1 | tee log`.
        print(line, file=sys.stderr, flush=True)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse ``argv`` with absl. If that fails, print one line and exit with status 2."""
    try:
        _check_config_flags(argv[1:])
        return flags.FLAGS(argv)
    except SystemExit:  # absl ends --help with status 1
        sys.exit(0)
    except (UserError, flags.Error) as error:
        # If a value is wrong, absl's message is a traceback that ends with the reason.
        reason = str(error).strip().splitlines()[-1]
        if missing := re.match(r"flag --(\w+)=None: Flag .* must have a value other than None", reason):
            reason = f"--{missing[1]} is missing"
        print(f"jaxresnet: {reason} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


def refuse_arguments(argv: list[str]) -> None:
    """Check that nothing is left of ``argv`` after the flags are parsed.

    Raises:
        UserError: a word that is not a flag.
    """
    if argv[1:]:
        raise UserError(f"{argv[1]!r} is not a flag; did you mean --{argv[1]}?")


def _check_config_flags(arguments: list[str]) -> None:
    """Check that the config file, its arm and all fields exist, because ml_collections would print a traceback."""
    names = [argument.lstrip("-").partition("=")[0] for argument in arguments if argument.startswith("-")]
    if "config" not in names:
        return
    index = next(i for i, argument in enumerate(arguments) if argument.lstrip("-").partition("=")[0] == "config")
    path = arguments[index].partition("=")[2] or "".join(arguments[index + 1 : index + 2])
    config = _load_config_file(path)
    fields = config_lib.flatten(config.to_dict())
    for name in names:
        field = name.removeprefix("no").removeprefix("config.")
        if "config." in name and field not in fields:
            close = difflib.get_close_matches(field, fields, n=1, cutoff=0.5)
            raise UserError(
                f"--{name}: there is no such field in {path}; "
                + (f"did you mean config.{close[0]}?" if close else "configs/default.py lists them all")
            )


def _load_config_file(path: str) -> ConfigDict:
    file, _, arm = path.partition(":")
    if not pathlib.Path(file).is_file():
        raise UserError(f"--config={path}: there is no file {file!r}")
    try:
        return config_flags.ConfigFileFlagParser("config").parse(path)
    except ModuleNotFoundError as error:
        raise UserError(f"--config={path}: {error}; run from the folder that holds configs/") from error
    except Exception as error:  # The file's own code can raise anything.
        if arm and "positional argument" in str(error):
            raise UserError(f"--config={path}: {file} has no arms, so no {arm!r}; give --config={file}") from error
        # ml_collections puts the type into the message of some errors only.
        reason = str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
        raise UserError(f"--config={path}: {reason} ({type(error).__name__})") from error
