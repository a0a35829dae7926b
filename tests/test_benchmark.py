"""The benchmark with a tiny network, and the README's table of its results."""

import contextlib
import json
import subprocess
import sys

import pytest

from scripts import benchmark, commands
from scripts.benchmark import OURS, TORCH, XLA, format_report
from tests.conftest import REPOSITORY

SMALL = ["--config=configs/quickstart.py", "--config.model.channels=4,8", "--config.model.blocks=1,1"]
SMALL += ["--config.batch_size=8", "--rounds=3"]


@pytest.fixture
def run(subprocess_environment):
    def run(*arguments):
        command = [sys.executable, "scripts/benchmark.py", *SMALL, *arguments]
        return subprocess.run(command, env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True)

    return run


@pytest.mark.reliability
def test_benchmark_measures_everything(run, tmp_path):
    out = tmp_path / "o.json"
    done = run("--against=torch", "--against=xla", f"--out={out}", f"--profile={tmp_path / 'profile'}")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    report = json.loads(out.read_text())

    names = ["jaxresnet", *TORCH["cpu", "float32"], "XLA's convolutions"]
    assert list(report["contenders"]) == names
    for name, cost in report["contenders"].items():
        assert all(len(cost[each]) == 3 for each in ("wall_seconds", "processor_seconds", "page_faults", "relative"))
        assert min(cost["wall_seconds"] + cost["processor_seconds"] + cost["relative"]) > 0
        assert ("memory" in cost) == (name in (OURS, XLA))
    ours = report["contenders"][OURS]
    assert ours["relative"] == [1, 1, 1] and ours["versions"]["jax"] and ours["device"]
    assert report["contenders"]["PyTorch"]["versions"]["torch"]
    assert ours["load_seconds"] < ours["first_step_seconds"]
    assert min(cost["peak_memory"] for cost in report["contenders"].values()) > 2**27
    assert ours["memory"] > 1437 * 32 * 32 * 3  # the training images alone
    assert len(report["evaluation"]["wall_seconds"]) == 3
    assert format_report(report) in done.stdout


def test_report_has_the_figures():
    cost = {"processor_seconds": [0.5], "page_faults": [1234, 0, 5000], "peak_memory": 3 * 2**30}
    ours = {
        "wall_seconds": [0.001, 0.002, 0.0005], "relative": [1, 1, 1], "device": "a GPU", "device_count": 1,
        "steps_per_dispatch": 130, "compile_seconds": 12.34, "memory": 3 * 2**29, "load_seconds": 0.5,
        "first_step_seconds": 20.0,
    }  # fmt: skip
    report = {
        "dtype": "bfloat16", "batch_size": 100, "flop_per_image": 2e9, "matrix_product_flop_per_second": 8e14,
        "contenders": {
            "jaxresnet": cost | ours,
            "PyTorch": cost | {"wall_seconds": [0.002, 0.005, 0.002], "relative": [2, 2.5, 4]},
        },
        "evaluation": cost | {"batch_size": 1000, "wall_seconds": [0.1, 0.2, 0.5]},
        "commands": [{"command": "`--help`", "cold_seconds": 0.25, "warm_seconds": 0.11, "peak": 2**29}],
    }  # fmt: skip
    text = format_report(report)
    # 100 images of 2 GFLOP in 1 ms are 200 TFLOP/s, a quarter of 800.
    assert "| jaxresnet | 1.00 ms | 1 | 500 ms | 100,000 | 25% | 3.00 GiB |" in text
    assert "| PyTorch | 2.00 ms | 2.50 (2.00 to 4.00) | 500 ms | 50,000 | 12% | 3.00 GiB |" in text
    assert "| products alone | 0 ms | 0.25 |  |  | 100% |  |" in text
    assert "| evaluation | 5,000 images/s |" in text and "1.50 GiB" in text and "12.3 s" in text
    assert "| `--help` | 0.2 s | 0.1 s | 0.50 GiB |" in text


class FakeProcess:
    """A process whose turns take given seconds, ten times as many the first time, and that records the order."""

    def __init__(self, name, seconds, order):
        self.name, self.seconds, self.order, self.facts = name, seconds, order, {}

    def ask(self, command):
        assert command == "turn"
        self.order.append(self.name)
        seconds = self.seconds * (1 if self.order[-2:] == [self.name] * 2 else 10)
        return {"wall_seconds": seconds, "processor_seconds": 2 * seconds, "page_faults": 7}


def test_four_processes_are_interleaved(monkeypatch):
    monkeypatch.setattr(benchmark, "WARM_UP_SECONDS", 0.0)
    order, alive, most = [], {OURS}, 0

    @contextlib.contextmanager
    def started(config, kind):
        nonlocal most
        alive.add(kind)
        most = max(most, len(alive))
        yield FakeProcess(kind, 3.0, order)
        alive.remove(kind)

    monkeypatch.setattr(benchmark, "started", started)
    costs = benchmark.compare(None, FakeProcess(OURS, 2.0, order), ["a", "b", "c", "d"], 2)
    assert order == [OURS, OURS, "a", "a", "b", "b", "c", "c"] * 3 + [OURS, OURS, "d", "d"] * 3 and most == 4
    assert list(costs) == [OURS, "a", "b", "c", "d"]
    assert costs["d"] == {
        "wall_seconds": [3, 3], "processor_seconds": [6, 6], "page_faults": [7, 7], "relative": [1.5, 1.5],
    }  # fmt: skip


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--rounds=0", "--rounds"),
        ("--against=keras", "invalid choice: 'keras'"),
    ],
)
def test_mistakes_get_one_line(run, flag, reason):
    done = run(flag)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert reason in done.stderr.splitlines()[-1]


def test_commands_are_timed_cold_and_warm(monkeypatch):
    monkeypatch.setattr(commands, "COMMANDS", {"help": ["--help"], "configs": ["configs"]})
    for measured in commands.measure_commands(long=False):
        assert measured["warm_seconds"] > 0 and measured["peak"] > 0


@pytest.mark.reliability
def test_first_step_ends_before_the_run(tmp_path):
    commands.measure(commands.QUICK_START, tmp_path, tmp_path / "run" / "metrics.jsonl")
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size
    assert not (tmp_path / "run" / "summary.json").exists()
