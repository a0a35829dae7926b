"""Parts that all commands share: flags, config files, one-line errors and quiet libraries."""

from jaxresnet.cli.command import command, refuse_arguments
from jaxresnet.cli.flags import CHECKPOINT_HELP, parse_arguments, parse_flags

__all__ = ["CHECKPOINT_HELP", "command", "parse_arguments", "parse_flags", "refuse_arguments"]
