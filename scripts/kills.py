"""Kill a training run with SIGKILL many times, and check that it ends like an undisturbed run.

    python -m scripts.kills --kills=200

The run starts again after each kill. Its parameters, statistics, momenta, metrics.jsonl, summary.json and confusion.csv
are compared bit for bit. The run trains a small network on scikit-learn's digits on the CPU, by ``train_and_evaluate``,
and reports each phase that it begins. Kills are aimed at start-up, a step, an evaluation, a line of metrics.jsonl, a
checkpoint save, a save that SIGTERM asked for, and any moment. If a run ends before all kills are used, another begins.
The exit status is 1 if a run differs or a start fails.
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
from jaxresnet import cli, training
from jaxresnet.core.evaluation import evaluate
from jaxresnet.core.programs import Steps, jit_steps
from jaxresnet.data.loading import load_dataset
from jaxresnet.system.devices import set_up_jax
from jaxresnet.workdir import folder as files
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.log import MetricsWriter
from scripts.same_run import differences, read_outcome

START, STEP, LINE, EVALUATION, SAVE, END = "start-up", "step", "line", "evaluation", "save", "end"
BETWEEN = "none of these"
PHASES = (START, STEP, LINE, EVALUATION, SAVE, END, BETWEEN)

# Each of these phases gets at least one kill.
CERTAIN = {START, STEP, EVALUATION, SAVE}

# Range of the number of beginnings of a phase that a kill waits for: about ten steps on average. The first evaluation
# begins twice, because compiling its program counts as start-up.
BEGINNINGS = {STEP: (1, 15), LINE: (1, 15), EVALUATION: (2, 3), SAVE: (1, 3)}

PATIENCE = 300  # seconds without a report before a session counts as hung


class Kill(NamedTuple):
    """The moment of a kill.

    Attributes:
        phase: phase that must begin first; None for no such condition.
        beginnings: how many times the phase must begin.
        delay: seconds to wait after that, or after the start if there is no phase.
        last_words: seconds to wait after SIGTERM has made the session begin a save; None for no SIGTERM.
    """

    phase: str | None
    beginnings: int
    delay: float
    last_words: float | None = None


class Result(NamedTuple):
    """Result of all kills.

    Attributes:
        kills: number of kills in each phase.
        runs: number of runs that were killed.
        differences: one line per difference between a run and the undisturbed one.
    """

    kills: collections.Counter[str]
    runs: int
    differences: list[str]

    def __str__(self) -> str:
        phases = ", ".join(f"{self.kills[phase]} in {phase}" for phase in PHASES if self.kills[phase])
        return f"{self.kills.total()} kills over {self.runs} run{'s' if self.runs > 1 else ''}: {phases}"


def create_config(folder: pathlib.Path) -> ConfigDict:
    """Create a config of 180 steps in 20 epochs, a line per step and many checkpoints. Save its data in ``folder``."""
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
    config.dataset.name = "cifar10"  # .npz files belong to this name
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
    """Kill runs in new folders of ``folder``, and compare each with an undisturbed run.

    Args:
        kills: least number of kills. Their moments follow from ``seed`` and the machine's speed.
        seed: seed of the moments.
        folder: empty folder.
        on_kill: function that is called after each kill.

    Raises:
        RuntimeError: a session ended with an unexpected status, or hung.
    """
    config, rng = create_config(folder), random.Random(seed)
    sessions = _Sessions(config, folder)
    sessions.finish(folder / "first")  # compiles the programs, so that all later start-ups take equally long
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
    """Yield kills of all kinds, round after round, in a new order each round.

    Args:
        rng: random numbers of the moments.
        seconds: duration of each phase.
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
    """Training processes. They are forked from one that has imported everything, because imports take longest."""

    def __init__(self, config: ConfigDict, folder: pathlib.Path):
        self._config, self._folder = config, folder
        self._log = folder / "log.txt"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        # Forks copy one thread, so the parent must have no other. Killed processes leave semaphores, of which Python
        # would warn.
        with unittest.mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1", PYTHONWARNINGS="ignore"):
            forkserver.ensure_running()

    def finish(self, workdir: pathlib.Path) -> dict[str, float]:
        """Run a session to its end. Return the total seconds of start-up, and the median seconds of other phases."""
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
        """Run a session and kill it. Return the phase of the kill, or None if the session ended before it."""
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
            raise RuntimeError(f"a session ended with status {process.exitcode}; see the end of {self._log}")


def _next_phase(reader: Connection) -> str | None:
    """Return the next phase that the session begins, or None if it has ended."""
    try:
        if not reader.poll(PATIENCE):
            raise RuntimeError(f"the session reported nothing for {PATIENCE} s")
        return reader.recv()
    except EOFError:
        return None


def _await(reader: Connection, phase: str, awaited: str, beginnings: int) -> str:
    """Wait until ``awaited`` has begun ``beginnings`` times or the session has ended. Return its phase then."""
    while beginnings and (begun := _next_phase(reader)):
        phase = begun
        beginnings -= begun == awaited
    return phase


def _train(
    config: ConfigDict, workdir: pathlib.Path, compiled: pathlib.Path, log: pathlib.Path, parent: Connection
) -> None:
    """Run a session: train until the run ends or is stopped, and send ``parent`` each phase that begins."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    set_up_jax()
    phases = [BETWEEN]

    def announced(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``function`` to report its phase. Functions that it calls may report other phases."""

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
        """Wrap a program so that its first call, which compiles it, counts as start-up."""
        calls = itertools.chain([announced(START, program)], itertools.repeat(later))
        return lambda *arguments: next(calls)(*arguments)

    def jit_announced(*arguments: Any) -> Steps:
        steps = jit_steps(*arguments)
        return Steps(
            train=compiled_at_first(steps.train, announced(STEP, steps.train)),
            evaluate=compiled_at_first(steps.evaluate, steps.evaluate),
        )

    patch = unittest.mock.patch.object
    with (
        patch(training, "jit_steps", jit_announced),
        patch(training, "evaluate", announced(EVALUATION, evaluate)),
        patch(Checkpointer, "save", announced(SAVE, Checkpointer.save)),
        patch(MetricsWriter, "write", announced(LINE, MetricsWriter.write)),
        patch(files, "write_confusion", announced(END, files.write_confusion)),
        patch(files, "write_summary", announced(END, files.write_summary)),
        cli.command(),
    ):
        training.train_and_evaluate(config, str(workdir))


def main() -> None:
    """Kill runs as the command line says, and report the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="least number of kills (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
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
