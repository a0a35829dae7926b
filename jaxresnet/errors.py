"""The exceptions that the commands print as one line."""


class UserError(Exception):
    """Something the user can mend. Its message is one line: what was wrong, and what to do."""


class Interrupted(Exception):
    """The run was asked to stop and has saved itself; ``exit_status`` is the shell's 128 + signal."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status
