"""The one exception for what a user can mend, and how the commands print it."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Something the user can mend. Its message is one line: what was wrong, and what to do."""


class Interrupted(Exception):
    """The run was asked to stop and has saved itself; ``exit_status`` is the shell's 128 + signal."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turns the exceptions above into one line on stderr and an exit status that is not 0."""
    try:
        yield
    except UserError as error:
        sys.exit(f"jaxresnet: {error}")
    except Interrupted as interrupted:
        print(f"jaxresnet: {interrupted}", file=sys.stderr)
        sys.exit(interrupted.exit_status)
    except KeyboardInterrupt:
        sys.exit("jaxresnet: interrupted")
