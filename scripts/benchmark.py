"""Time the training of a config, interleaved with rivals.

    python -m scripts.benchmark --config=configs/final.py --against=torch --against=xla

Rivals are ``xla``, the same program with XLA's own convolutions (on CPU the project has others), and ``torch``, PyTorch
as the paper's authors wrote it, and tuned. Each contender is a process, so that its memory and threads do not disturb
the others. Results are medians over the rounds, without a warm-up round. Every timing ends when the result is ready.
``JAX_PLATFORMS`` selects the device and ``--config.dtype=bfloat16`` the type.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any, cast

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # for scripts/, if this file is run by its path

from ml_collections import ConfigDict

from jaxresnet import cli
from jaxresnet.config import get_config, save_config
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import output_file, write_whole
from jaxresnet.system.terminal import format_seconds
from scripts.commands import measure_commands

OURS, XLA, EVALUATION = "jaxresnet", "XLA's convolutions", "evaluation"
# By platform and type: PyTorch as the paper's authors wrote it, in float32, and what makes it faster.
TORCH = {
    ("cpu", "float32"): ("PyTorch", "PyTorch, channels_last", "PyTorch, channels_last, our malloc settings"),
    ("cpu", "bfloat16"): (
        "PyTorch, channels_last, our malloc settings",
        "PyTorch, autocast, channels_last, our malloc settings",
        "PyTorch, autocast, channels_last, our malloc settings, compiled",
    ),
    ("gpu", "float32"): ("PyTorch", "PyTorch, channels_last", "PyTorch, channels_last, compiled"),
    ("gpu", "bfloat16"): ("PyTorch", "PyTorch, autocast, channels_last", "PyTorch, autocast, channels_last, compiled"),
}

# Live processes at a time, including this project's. With more, their memory decides who is fast.
AT_ONCE = 4

WARM_UP_SECONDS = 1.0

Turn = dict[str, float]  # wall_seconds, processor_seconds and page_faults of a step


class Process:
    """A contender in its own process (``scripts/contenders.py``). ``facts`` holds its first answer."""

    def __init__(self, config: ConfigDict, kind: str):
        """Start the contender and wait until it is ready.

        Raises:
            UserError: the contender ended. The message holds its last line on stderr.
        """
        self._kind, self._stderr = kind, tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        # Several processes share a GPU, and by default JAX's first would take most of its memory.
        variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        if not kind.startswith("PyTorch") or "our malloc settings" in kind:
            variables = cli.LARGE_PAGES | variables  # as our commands that train
        with tempfile.TemporaryDirectory() as folder:
            save_config(config, pathlib.Path(folder))
            command = [sys.executable, str(pathlib.Path(__file__).with_name("contenders.py")), folder, kind]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
            self._process = subprocess.Popen(command, env=variables, text=True, **pipes)
            self.facts: dict[str, Any] = self._answer()

    def ask(self, command: str) -> Any:
        """Send a command, such as ``turn``, and return the answer.

        Raises:
            UserError: the contender ended. The message holds its last line on stderr.
        """
        stdin = cast(IO[str], self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # The contender has ended, which reading its answer reports.
            stdin.write(f"{command}\n")
            stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        if line := cast(IO[str], self._process.stdout).readline():
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
def started(config: ConfigDict, kind: str) -> Iterator[Process]:
    """Start a contender, and kill its process on exit."""
    _say(f"starting {kind}")
    process = Process(config, kind)
    try:
        yield process
    finally:
        process.close()


def take_turns(processes: dict[str, Process], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Let each process warm up for ``WARM_UP_SECONDS`` per round, and then time one dispatch.

    During the warm-up the system may still be busy with memory that the previous process returned. After PyTorch's
    turn, a step of the final model took 4.5 s and the next one 2.5 s. The first round does not count either.

    Returns:
        For each process, a list over the rounds for each field of ``Turn``.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in processes}
    for number in range(rounds + 1):
        for name, process in processes.items():
            _say(f"round {number} of {rounds}: {name}")
            warm = time.monotonic() + WARM_UP_SECONDS
            process.ask("turn")
            while time.monotonic() < warm:
                process.ask("turn")
            turns[name].append(process.ask("turn"))
    return {name: {field: [turn[field] for turn in each[1:]] for field in each[0]} for name, each in turns.items()}


def compare(config: ConfigDict, ours: Process, rivals: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Time this project and its rivals, ``AT_ONCE`` processes at a time.

    Returns:
        Facts and turns of each contender. ``relative`` is the wall time divided by ours in each round.
    """
    groups = [rivals[first : first + AT_ONCE - 1] for first in range(0, len(rivals), AT_ONCE - 1)] or [[]]
    costs: dict[str, dict[str, Any]] = {}
    for group in groups:
        with contextlib.ExitStack() as stack:
            processes = {OURS: ours} | {kind: stack.enter_context(started(config, kind)) for kind in group}
            turns = take_turns(processes, rounds)
        for kind, process in processes.items():
            walls = zip(turns[kind]["wall_seconds"], turns[OURS]["wall_seconds"], strict=True)
            cost = turns[kind] | process.facts | {"relative": [wall / our for wall, our in walls]}
            costs.setdefault(kind, cost)
    return costs


def measure(config: ConfigDict, against: list[str], rounds: int, profile: pathlib.Path | None) -> dict[str, Any]:
    """Measure a config: its training, the rivals' training, and its evaluation.

    If ``profile`` is given, a profile of one dispatch is written to that folder.
    """
    with started(config, OURS) as ours:
        platform = ours.facts["platform"]
        if "torch" in against and platform == "tpu":
            raise UserError("--against=torch: PyTorch is not timed on a TPU; leave it out")
        if "xla" in against and platform == "tpu":
            raise UserError("--against=xla: on TPU all convolutions are XLA's; leave it out")
        rivals = [*(TORCH[platform, config.dtype] if "torch" in against else ()), *([XLA] if "xla" in against else ())]
        costs = compare(config, ours, rivals, rounds)
        if profile:
            ours.ask(f"profile {profile.resolve()}")
        _say("a large matrix product")
        ceiling = ours.ask(f"ceiling {config.dtype}")
    with started(config, EVALUATION) as evaluation:
        evaluated = take_turns({EVALUATION: evaluation}, rounds)[EVALUATION]
    return {
        "config": config.name,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "flop_per_image": ours.facts["flop_per_image"],
        "matrix_product_flop_per_second": ceiling,
        "contenders": costs,
        "evaluation": evaluation.facts | evaluated,
    }


_HEADER = ("", "step", "relative to ours", "processor time", "images/s", "of the ceiling", "peak memory")


def format_report(report: dict[str, Any]) -> str:
    """Format the measurements as Markdown: contenders, facts, and whole commands if they were measured."""
    batch_size, ceiling, flop = (report[n] for n in ("batch_size", "matrix_product_flop_per_second", "flop_per_image"))
    ours, evaluation = report["contenders"][OURS], report["evaluation"]
    floor = flop * batch_size / ceiling
    share = floor / statistics.median(ours["wall_seconds"])
    contenders = [_row(name, cost, batch_size, floor) for name, cost in report["contenders"].items()]
    contenders.append(["products alone", f"{1e3 * floor:,.0f} ms", f"{share:.2f}", "", "", "100%", ""])
    facts = {name: cost for name, cost in report["contenders"].items() if "compile_seconds" in cost}
    devices = "" if ours["device_count"] == 1 else f", {ours['device_count']} devices"
    seconds = statistics.median(evaluation["wall_seconds"])
    rows = {
        "device": f"{ours['device']}{devices}, {report['dtype']}, batch size {batch_size}",
        "ceiling, a large matrix product": f"{ceiling / 1e12:.3g} TFLOP/s",
        "steps per dispatch": ours["steps_per_dispatch"],
        "compilation": ", ".join(f"{name} {cost['compile_seconds']:.1f} s" for name, cost in facts.items()),
        "memory per device, data set included": ", ".join(
            f"{name} {_gib(cost['memory'])}" for name, cost in facts.items() if "memory" in cost
        ),
        "start of the program to the end of the first dispatch": format_seconds(ours["first_step_seconds"]),
        "of that, reading the data": f"{ours['load_seconds']:.2f} s",
        "evaluation": f"{evaluation['batch_size'] / seconds:,.0f} images/s",
    }
    tables = [
        markdown_table(_HEADER, contenders),
        markdown_table(["", ""], rows.items()),
    ]
    if report["commands"]:
        timed = [
            [each["command"], f"{each['cold_seconds']:.1f} s", f"{each['warm_seconds']:.1f} s", _gib(each["peak"])]
            for each in report["commands"]
        ]
        tables.append(markdown_table(["command", "cold", "warm", "peak memory"], timed))
    return "\n\n".join(tables)


def markdown_table(header: Any, rows: Any) -> str:
    """Format a table in Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows))


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _row(name: str, cost: dict[str, Any], batch_size: float, floor: float) -> list[str]:
    """Return the cells of ``_HEADER``: medians of a contender's turns, and the range of the ratios to ours."""
    wall, processor, ratio = (statistics.median(cost[f]) for f in ("wall_seconds", "processor_seconds", "relative"))
    times = [f"{1e3 * seconds:,.{0 if seconds > 0.02 else 2}f} ms" for seconds in (wall, processor)]
    relative = "1" if name == OURS else f"{ratio:.2f} ({min(cost['relative']):.2f} to {max(cost['relative']):.2f})"
    speed = f"{batch_size / wall:,.0f}", f"{floor / wall:.0%}"
    return [name, times[0], relative, times[1], *speed, _gib(cost["peak_memory"])]


def _say(text: str) -> None:
    print(f"\r{text:<70}", file=sys.stderr, end="", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the benchmark that the flags describe."""
    out = output_file("--out", arguments.out, arguments.force, (".json",)) if arguments.out else None
    config = get_config(arguments.config, arguments.overrides)
    profile = user_path(arguments.profile) if arguments.profile else None
    report = measure(config, arguments.against, arguments.rounds, profile)
    report["commands"] = measure_commands(arguments.commands == "all") if arguments.commands else []
    _say("")
    print(f"\n{format_report(report)}")
    if out:
        write_whole(out, json.dumps(report, indent=2) + "\n")
        print(out)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("scripts.benchmark", __doc__)
    parser.add_config()
    parser.add_argument("--rounds", type=cli.count, default=7, help="timed rounds, after one warm-up round")
    rivals = "rival to time, interleaved; may be repeated"
    parser.add_argument("--against", action="append", default=[], choices=["torch", "xla"], help=rivals)
    text = "also time whole commands and measure their memory; all: those that need CIFAR-10 too, for some minutes"
    parser.add_argument("--commands", choices=["short", "all"], help=text)
    parser.add_argument("--out", help="JSON file for the measurements")
    parser.add_argument("--profile", help="folder for a profile of one dispatch")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --out names")
    cli.run(run, parser, argv)


if __name__ == "__main__":
    main()
