"""Interleaved timing of ``benchmark.py``'s contenders, each in its own process."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from ml_collections import ConfigDict

from jaxresnet.config import save_config
from jaxresnet.system import malloc
from jaxresnet.system.errors import UserError
from scripts import contenders
from scripts.contenders import OURS, Turn

# Live processes at a time, including this project's. With more, their memory decides who is fast.
AT_ONCE = 4

WARM_UP_SECONDS = 1.0

Say = Callable[[str], None]


class Process:
    """A contender in its own process. ``facts`` holds the first answer of the contender."""

    def __init__(self, config: ConfigDict, kind: str):
        """Start the contender and wait until it is ready.

        Raises:
            UserError: the contender ended. The message holds its last line on stderr.
        """
        self._kind, self._stderr = kind, tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        # Several processes share a GPU, and by default JAX's first would take most of its memory.
        variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        if contenders.has_our_malloc(kind):
            variables = malloc.with_large_pages(variables)
        with tempfile.TemporaryDirectory() as folder:
            save_config(config, pathlib.Path(folder))
            command = [sys.executable, contenders.__file__, folder, kind]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
            self._process = subprocess.Popen(command, env=variables, text=True, **pipes)
            self.facts: dict[str, Any] = self._answer()

    def turn(self) -> Turn:
        """Run one dispatch and return its cost."""
        return Turn(**self.ask("turn"))

    def ask(self, command: str) -> Any:
        """Send a command and return the answer.

        Raises:
            UserError: the contender ended. The message holds its last line on stderr.
        """
        stdin = cast(IO[str], self._process.stdin)
        try:
            stdin.write(f"{command}\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # The contender has ended. Reading its answer reports that.
        return self._answer()

    def _answer(self) -> Any:
        line = cast(IO[str], self._process.stdout).readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().strip().splitlines()
        raise UserError(f"{self._kind} ended with status {status}: {said[-1] if said else 'no output'}")

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()


@contextlib.contextmanager
def started(config: ConfigDict, kind: str, say: Say) -> Iterator[Process]:
    """Start a contender, and kill its process on exit."""
    say(f"starting {kind}")
    process = Process(config, kind)
    try:
        yield process
    finally:
        process.close()


def take_turns(processes: dict[str, Process], rounds: int, say: Say) -> dict[str, list[Turn]]:
    """Let each process warm up for ``WARM_UP_SECONDS`` per round, and then time one dispatch.

    During the warm-up the system may still be busy with memory that the previous process returned. After PyTorch's
    turn, a step of the final model took 4.5 s and the next one 2.5 s. The first round does not count either.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in processes}
    for number in range(rounds + 1):
        for name, process in processes.items():
            say(f"round {number} of {rounds}: {name}")
            warm = time.monotonic() + WARM_UP_SECONDS
            process.turn()
            while time.monotonic() < warm:
                process.turn()
            turns[name].append(process.turn())
    return {name: each[1:] for name, each in turns.items()}


def compare(config: ConfigDict, ours: Process, rivals: list[str], rounds: int, say: Say) -> dict[str, dict[str, Any]]:
    """Time this project and its rivals, ``AT_ONCE`` processes at a time.

    Returns:
        Facts of each contender, with ``wall_seconds``, ``processor_seconds`` and ``page_faults`` of a step in each
        round. ``relative`` is the wall time divided by ours in each round.
    """
    groups = [rivals[first : first + AT_ONCE - 1] for first in range(0, len(rivals), AT_ONCE - 1)] or [[]]
    costs: dict[str, dict[str, Any]] = {}
    for group in groups:
        with contextlib.ExitStack() as stack:
            processes = {OURS: ours} | {kind: stack.enter_context(started(config, kind, say)) for kind in group}
            turns = take_turns(processes, rounds, say)
        for kind, process in processes.items():
            cost = describe(turns[kind]) | process.facts
            cost["relative"] = [turn.wall / our.wall for turn, our in zip(turns[kind], turns[OURS], strict=True)]
            costs.setdefault(kind, cost)
    return costs


def describe(turns: list[Turn]) -> dict[str, list[float]]:
    """Return the turns as lists for a report."""
    return {
        "wall_seconds": [turn.wall for turn in turns],
        "processor_seconds": [turn.processor for turn in turns],
        "page_faults": [turn.page_faults for turn in turns],
    }
