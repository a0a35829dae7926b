"""Kills a training run with SIGKILL again and again, starts it again each time, and compares where it ends with a run
that nobody disturbed: parameters, statistics, momenta, metrics.jsonl, summary.json and confusion.csv, bit for bit.

    python scripts/kills.py --kills=200

The run is a small network on scikit-learn's digits, on the CPU, by ``train_and_evaluate``, which tells this program
what it begins. Kills are aimed at start-up, a step, an evaluation, a line of metrics.jsonl, a checkpoint being saved, a
save that SIGTERM asked for, and any moment. A run that ends before all kills are spent is compared, and another begins.
Ends with status 1 where a run differs or a start fails.
"""

import argparse
import collections
import contextlib
import functools
import itertools
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/ and scripts/

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from configs import quickstart
from jaxresnet import cli, train
from jaxresnet.checkpoint import Checkpointer
from jaxresnet.datasets import load_dataset
from jaxresnet.environment import set_up_jax
from jaxresnet.evaluate import evaluate
from jaxresnet.metrics import MetricsWriter
from jaxresnet.run_files import write_confusion, write_summary
from jaxresnet.steps import Steps, compile_steps
from scripts.same_run import differences, read_outcome

START, STEP, LINE, EVALUATION, SAVE, END = "start-up", "step", "line", "evaluation", "save", "end"
BETWEEN = "none of these"
PHASES = (START, STEP, LINE, EVALUATION, SAVE, END, BETWEEN)

# At least one kill falls into each of these.
CERTAIN = {START, STEP, EVALUATION, SAVE}

# Kills wait for so many beginnings of a phase: on average for some ten steps. An evaluation that compiles its program
# is interrupted by start-up, and begins again.
BEGINNINGS = {STEP: (1, 15), LINE: (1, 15), EVALUATION: (2, 3), SAVE: (1, 3)}

PATIENCE = 300  # seconds without a sign of life before a session counts as hung


class Kill(NamedTuple):
    """When to kill.

    Attributes:
        phase: that must begin first, None for no such condition.
        beginnings: how many times.
        delay: seconds to wait then; since the start where there is no phase.
        last_words: seconds to leave it to save itself, as SIGTERM then asks it to; None for no such warning.
    """

    phase: str | None
    beginnings: int
    delay: float
    last_words: float | None = None


class Result(NamedTuple):
    """How the kills went.

    Attributes:
        kills: how many fell into each phase.
        runs: how many runs they were spread over.
        differences: a line for each thing in which a run differs from the undisturbed one.
    """

    kills: collections.Counter[str]
    runs: int
    differences: list[str]

    def __str__(self) -> str:
        phases = ", ".join(f"{self.kills[phase]} in {phase}" for phase in PHASES if self.kills[phase])
        return f"{self.kills.total()} kills over {self.runs} run{'s' if self.runs > 1 else ''}: {phases}"


def create_config(folder: pathlib.Path) -> ConfigDict:
    """180 steps in 20 epochs of a few digits, which it leaves in ``folder``; a line each step, many checkpoints."""
    digits = load_dataset("digits", None, 10)
    data = folder / "digits.npz"
    np.savez(
        data,
        train_images=digits.train.images[:200],
        train_labels=digits.train.labels[:200],
        test_images=digits.test.images[:120],
        test_labels=digits.test.labels[:120],
    )
    config = quickstart.get_config()
    config.dataset.data_dir = str(data)
    config.dataset.name = "cifar10"  # as far as .npz files go
    config.num_epochs = 20
    config.batch_size = 24
    config.eval_every_epochs = 2
    config.eval_batch_size = 4
    config.model.channels = (4, 8)
    config.model.blocks = (1, 1)
    config.model.dropout_rate = 0.4
    config.log_every_steps = 1
    config.checkpoint.every_steps = 6
    return config


def kill_and_compare(
    kills: int, seed: int, folder: pathlib.Path, on_kill: Callable[[], object] = lambda: None
) -> Result:
    """Kills runs in new folders of ``folder`` so many times and compares each with an undisturbed one.

    Args:
        kills: how many at least, at moments that follow from ``seed`` and the machine's pace.
        seed: of the moments.
        folder: an empty one.
        on_kill: called after each.

    Raises:
        RuntimeError: a session ended by itself other than it should, or hung.
    """
    config, rng = create_config(folder), random.Random(seed)
    sessions = _Sessions(config, folder)
    sessions.finish(folder / "first")  # compiles the programs, so that start-up takes as long as it will later
    expected = folder / "undisturbed"
    seconds = sessions.finish(expected)

    killed: collections.Counter[str] = collections.Counter()
    workdirs = (folder / f"run{number}" for number in itertools.count(1))
    started = [next(workdirs)]
    for kill in _draw_kills(rng, seconds):
        if killed.total() >= kills and killed.keys() >= CERTAIN:
            break
        if phase := sessions.kill(started[-1], kill):
            killed[phase] += 1
            on_kill()
        elif (started[-1] / "summary.json").exists():
            started.append(next(workdirs))
    sessions.finish(started[-1])

    expected_outcome = read_outcome(config, expected)
    found = [
        f"{workdir.name}: {difference}"
        for workdir in [folder / "first", *started]
        for difference in differences(read_outcome(config, workdir), expected_outcome)
    ]
    return Result(killed, len(started), found)


def _draw_kills(rng: random.Random, seconds: dict[str, float]) -> Iterator[Kill]:
    """Kills of all kinds by turns, in an order of its own each time.

    Args:
        rng: of the moments.
        seconds: that each phase takes.
    """
    while True:
        for kind in rng.sample(["any", "stop", START, STEP, LINE, EVALUATION, SAVE, SAVE], 8):
            if kind in ("any", START):
                yield Kill(None, 0, rng.uniform(0, seconds[START] * (2 if kind == "any" else 1)))
                continue
            phase = rng.choice([STEP, EVALUATION]) if kind == "stop" else kind
            last_words = rng.uniform(0, seconds[SAVE]) if kind == "stop" else None
            yield Kill(phase, rng.randint(*BEGINNINGS[phase]), rng.uniform(0, seconds[phase]), last_words)


class _Sessions:
    """Processes that train, forked from one that has imported everything, which takes longer than all they do."""

    def __init__(self, config: ConfigDict, folder: pathlib.Path):
        self._config, self._folder = config, folder
        self._log = folder / "log.txt"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        # Its only thread must be Python's: forks copy no other. And the killed leave semaphores, which Python reports.
        with unittest.mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1", PYTHONWARNINGS="ignore"):
            forkserver.ensure_running()

    def finish(self, workdir: pathlib.Path) -> dict[str, float]:
        """Runs a session to its end; returns the seconds that start-up took in all, and any other phase as a rule."""
        seconds = collections.defaultdict(list)
        with self._start(workdir) as (process, reader):
            start, phase = time.monotonic(), START
            while begun := _next_phase(reader):
                now = time.monotonic()
                seconds[phase].append(now - start)
                start, phase = now, begun
            process.join(PATIENCE)
        self._check(process, 0)
        return {phase: (sum if phase == START else statistics.median)(each) for phase, each in seconds.items()}

    def kill(self, workdir: pathlib.Path, kill: Kill) -> str | None:
        """Runs a session and kills it; returns in which phase, or None where it had ended before."""
        phase = START
        with self._start(workdir) as (process, reader):
            if kill.phase is None:
                connection.wait([process.sentinel], kill.delay)
            else:
                phase = _await(reader, phase, kill.phase, kill.beginnings)
                time.sleep(kill.delay)
            if kill.last_words is not None:
                process.terminate()
                phase = _await(reader, phase, SAVE, 1)
                time.sleep(kill.last_words)
            process.kill()
            while begun := _next_phase(reader):
                phase = begun
        if process.exitcode == -signal.SIGKILL:
            return phase
        self._check(process, 0, *([128 + signal.SIGTERM] if kill.last_words is not None else []))
        return None

    @contextlib.contextmanager
    def _start(self, workdir: pathlib.Path) -> Iterator[tuple[BaseProcess, Connection]]:
        reader, writer = self._context.Pipe(duplex=False)
        arguments = (self._config, workdir, self._folder / "compiled", self._log, writer)
        process = self._context.Process(target=_train, args=arguments)
        process.start()
        writer.close()
        try:
            yield process, reader
        finally:
            process.kill()
            process.join()
            reader.close()

    def _check(self, process: BaseProcess, *statuses: int) -> None:
        if process.exitcode not in statuses:
            raise RuntimeError(f"a session ended with status {process.exitcode}; its output is the end of {self._log}")


def _next_phase(reader: Connection) -> str | None:
    """What the session begins next; None where it has ended."""
    try:
        if not reader.poll(PATIENCE):
            raise RuntimeError(f"nothing happened for {PATIENCE} s")
        return reader.recv()
    except EOFError:
        return None


def _await(reader: Connection, phase: str, awaited: str, beginnings: int) -> str:
    """Returns once ``awaited`` has begun so many times, or the session has ended: its phase then."""
    while beginnings and (begun := _next_phase(reader)):
        phase = begun
        beginnings -= begun == awaited
    return phase


def _train(
    config: ConfigDict, workdir: pathlib.Path, compiled: pathlib.Path, log: pathlib.Path, parent: Connection
) -> None:
    """A session: trains until the run ends or somebody ends it, and tells ``parent`` what it begins."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    set_up_jax()
    phases = [BETWEEN]

    def announced(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, which is the phase's; what it calls may be another's."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            phases.append(phase)
            parent.send(phase)
            result = jax.block_until_ready(function(*arguments, **options))
            phases.pop()
            parent.send(phases[-1])
            return result

        return call

    def compiled_at_first(program: Callable[..., Any], later: Callable[..., Any]) -> Callable[..., Any]:
        """A program whose first call belongs to start-up."""
        calls = itertools.chain([announced(START, program)], itertools.repeat(later))
        return lambda *arguments: next(calls)(*arguments)

    def compile_announced(*arguments: Any) -> Steps:
        steps = compile_steps(*arguments)
        return Steps(
            train=compiled_at_first(steps.train, announced(STEP, steps.train)),
            evaluate=compiled_at_first(steps.evaluate, steps.evaluate),
        )

    patch = unittest.mock.patch.object
    with (
        patch(train, "compile_steps", compile_announced),
        patch(train, "evaluate", announced(EVALUATION, evaluate)),
        patch(Checkpointer, "save", announced(SAVE, Checkpointer.save)),
        patch(MetricsWriter, "write", announced(LINE, MetricsWriter.write)),
        patch(train, "write_confusion", announced(END, write_confusion)),
        patch(train, "write_summary", announced(END, write_summary)),
        cli.command(),
    ):
        train.train_and_evaluate(config, str(workdir))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many at least (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kills-"))
    with tqdm(total=arguments.kills, unit=" kills", dynamic_ncols=True) as bar:
        result = kill_and_compare(arguments.kills, arguments.seed, folder, bar.update)
    print(result)
    if result.differences:
        sys.exit("\n".join([*result.differences, f"the runs differ; they lie in {folder}"]))
    print("each run ended as the undisturbed one did, bit for bit")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
