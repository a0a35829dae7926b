"""Parse command lines. A mistake gets one line and exit status 2."""

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Sequence

from absl import flags
from ml_collections.config_flags import config_flags

from jaxresnet.cli.config_files import find_config_file, get_config
from jaxresnet.system import terminal
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.config import flatten, forget_paper

CHECKPOINT_HELP = '"last" (default), "best", or the step number of a checkpoint that was kept'

# What absl and Python say of a value of the wrong type, and what that means.
_TYPES = {
    r"invalid literal for int\(\) with base": "expected a whole number",
    r"could not convert string to float": "expected a number",
    r"Non-boolean argument to boolean flag": "expected true or false",
}


def parse_arguments(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse ``argv``, or the process's own arguments, where ``--data-dir`` means ``--data_dir``.

    ``--work-dir`` means ``--workdir``.
    """
    terminal.end_sign_of_life()  # Commands with argparse have imported everything by now.
    return parser.parse_args(_with_underscores(sys.argv[1:] if argv is None else argv))


def parse_flags(argv: list[str]) -> list[str]:
    """Parse ``argv`` with absl, in place. If that fails, print one line and exit with status 2.

    ``--config`` may be a name, such as ``final``. Names are spelt as in ``parse_arguments``. If flags change what is
    trained, the config keeps no figures of the paper.
    """
    arguments = _with_underscores(argv[1:])
    if {"--help", "-h", "--helpshort", "--helpfull"} & {*arguments}:
        terminal.end_sign_of_life()
        print(_help(argv[0]))
        sys.exit(0)
    try:
        argv[1:] = _with_config_file(arguments)  # in place, because ml_collections reads overrides from it too
        left = flags.FLAGS(argv)
    except (UserError, flags.Error) as error:
        terminal.end_sign_of_life()
        print(f"jaxresnet: {_reason(error)} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)
    if "config" in flags.FLAGS and flags.FLAGS.config is not None:
        forget_paper(flags.FLAGS.config, config_flags.get_override_values(flags.FLAGS["config"]))
    return left


def _with_underscores(arguments: Sequence[str]) -> list[str]:
    def spell(name: re.Match[str]) -> str:
        spelt = name[0][2:].replace("-", "_")
        return "--" + ("workdir" if spelt == "work_dir" else spelt)

    return [re.sub(r"^--[\w.-]+", spell, each) for each in arguments]


def _help(command: str) -> str:
    """Return the main module's docstring and its flags."""
    lines = [(sys.modules["__main__"].__doc__ or "").replace("``", "").strip(), "", "Flags:"]
    for flag in flags.FLAGS.get_key_flags_for_module(command):
        default = "" if flag.default in (None, False) else f" Default: {flag.default}."
        lines.append(textwrap.fill(f"--{flag.name}  {flag.help}{default}", 79, subsequent_indent="    "))
    return "\n".join(lines)


def _reason(error: Exception) -> str:
    # If a value is wrong, absl's message is a traceback that ends with the reason.
    reason = str(error).strip().splitlines()[-1]
    if missing := re.match(r"flag --(\w+)=None: Flag .* must have a value other than None", reason):
        return f"--{missing[1]} is missing"
    for pattern, expected in _TYPES.items():
        if found := re.match(rf"(?:flag )?(--[^:]*): \W*{pattern}", reason):
            return f"{found[1]}: {expected}"
    return reason.removeprefix("flag ")


def _with_config_file(arguments: list[str]) -> list[str]:
    """Replace the name of the config by the path of its file.

    Check that the file, its arm and all fields exist, because ml_collections would print a traceback.

    Raises:
        UserError: one of them does not exist.
    """
    names = [argument.lstrip("-").partition("=")[0] for argument in arguments if argument.startswith("-")]
    places = [i for i, argument in enumerate(arguments) if re.match("--?config(=|$)", argument)]
    if not places:
        return arguments
    if len(places) > 1:
        raise UserError("--config is given twice; give it once")
    (place,) = places
    value = arguments[place].partition("=")[2] if "=" in arguments[place] else "".join(arguments[place + 1 :][:1])
    try:
        fields = flatten(get_config(value).to_dict())
    except UserError as error:
        raise UserError(f"--config={value}: {error}") from error
    for name in names:
        field = name.removeprefix("no").removeprefix("config.")
        if "config." in name and field not in fields:
            close = difflib.get_close_matches(field, fields, n=1, cutoff=0.5)
            raise UserError(
                f"--{name}: there is no such field in {value}; "
                + (f"did you mean config.{close[0]}?" if close else "configs/default.py lists them all")
            )
    file, colon, arm = value.partition(":")
    rest = arguments[place + 1 :] if "=" in arguments[place] else arguments[place + 2 :]
    return [*arguments[:place], f"--config={find_config_file(file)}{colon}{arm}", *rest]
