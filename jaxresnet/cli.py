"""What the commands share: mistakes are answered in one line, and libraries keep quiet."""

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

from jaxresnet import config as config_lib
from jaxresnet import interrupts
from jaxresnet.errors import Interrupted, UserError

CHECKPOINT_HELP = '"last" (the default), "best", or the number of a step that was kept'


@contextlib.contextmanager
def command() -> Iterator[None]:
    """The body of a command: what a user can mend, or has asked for, becomes one line on stderr and a status not 0."""
    interrupts.raise_again()  # what the command needs is imported by now
    logging.set_verbosity(logging.ERROR)  # orbax reports every save in some 30 lines
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"jaxresnet: {error}")
    except BrokenPipeError:  # who reads has seen enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # such as a folder that may not be read
        sys.exit(f"jaxresnet: {error}")
    except Interrupted as interrupted:
        _say(f"jaxresnet: {interrupted}")
        sys.exit(interrupted.exit_status)
    except KeyboardInterrupt:
        _say(interrupts.LINE)
        sys.exit(128 + signal.SIGINT)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # who reads may have been stopped, too, as in `... 2>&1 | tee log`
        print(line, file=sys.stderr, flush=True)


def parse_flags(argv: list[str]) -> list[str]:
    """``absl``'s parsing of ``argv``; what cannot be parsed ends the program with one line and status 2."""
    try:
        _check_config_flags(argv[1:])
        return flags.FLAGS(argv)
    except (UserError, flags.Error) as error:
        # Where a value is wrong, absl puts a traceback around the reason.
        reason = str(error).strip().splitlines()[-1]
        if missing := re.match(r"flag --(\w+)=None: Flag .* must have a value other than None", reason):
            reason = f"--{missing[1]} is missing"
        print(f"jaxresnet: {reason} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


def refuse_arguments(argv: list[str]) -> None:
    """Refuses what is left of ``argv`` once flags are parsed: commands take flags alone.

    Raises:
        UserError: naming the first such word.
    """
    if argv[1:]:
        raise UserError(f"{argv[1]!r} is no flag; did you mean --{argv[1]}?")


def _check_config_flags(arguments: list[str]) -> None:
    """Refuses a config file, an arm or a field that does not exist, which ml_collections answers with a traceback."""
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
    except Exception as error:  # whatever the file itself raises
        if arm and "positional argument" in str(error):
            raise UserError(f"--config={path}: {file} has no arms, so no {arm!r}; give --config={file}") from error
        # ml_collections repeats the type in the message of some errors, and not of others.
        reason = str(error).strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
        raise UserError(f"--config={path}: {reason} ({type(error).__name__})") from error
