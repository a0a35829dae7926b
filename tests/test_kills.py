"""Killed runs end like undisturbed ones, the comparison finds every difference, and signals save the run."""

import collections
import os
import pty
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import quickstart
from jaxresnet import cli
from jaxresnet.data.loading import load_dataset
from jaxresnet.system import processes
from jaxresnet.system.errors import Interrupted
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.log import is_epoch_line, read_metrics
from scripts import kills
from scripts.same_run import Outcome, differences, read_outcome
from tests.conftest import REPOSITORY, arguments_of, few_often

pytestmark = pytest.mark.reliability


def test_killed_run_ends_exactly(tmp_path, thorough, count):
    least = 40 if thorough else 8  # one of each kind
    result = kills.kill_and_compare(least, 0, tmp_path)
    assert result.differences == []
    assert result.kills.keys() >= {kills.START, kills.STEP, kills.EVALUATION, kills.SAVE}
    assert result.kills.total() >= least
    count("kills survived", result.kills.total())


def create_outcome():
    return Outcome(
        metrics=[{"step": step, "train_loss": 1 / step} for step in (1, 2, 3)],
        summary={"best": {"epoch": 1, "accuracy": 50.0}},
        confusion=",a,b\na,1,2\nb,3,4\n",
        progress={"epoch": 1},
        arrays={"last['params']": np.arange(3, dtype=np.float32)},
    )


def last_bit_flipped(array):
    return np.nextafter(array, np.inf, dtype=array.dtype)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda run: {"metrics": run.metrics + run.metrics[-1:]}, "4 lines, not 3; twice: [3]; missing: []"),
        (lambda run: {"metrics": run.metrics[:1] + run.metrics[2:]}, "2 lines, not 3; twice: []; missing: [2]"),
        (lambda run: {"metrics": [line | {"train_loss": 0.1} for line in run.metrics]}, "'train_loss': 0.1}, not {"),
        (lambda run: {"summary": {"best": {"epoch": 2, "accuracy": 50.0}}}, "summary.json: best differs"),
        (lambda run: {"summary": {}}, "summary.json: best differs"),
        (lambda run: {"confusion": run.confusion.replace("4", "5")}, "confusion.csv differs"),
        (lambda run: {"progress": {"epoch": 2}}, "progress: epoch differs"),
        (lambda run: {"arrays": {name: -leaf for name, leaf in run.arrays.items()}}, "last['params'] differs"),
        (lambda run: {"arrays": {name: last_bit_flipped(leaf) for name, leaf in run.arrays.items()}}, "params"),
        (lambda run: {"arrays": {name: leaf.astype(float) for name, leaf in run.arrays.items()}}, "params"),
        (lambda run: {"arrays": {}}, "params"),
    ],
)
def test_every_difference_is_found(change, difference):
    run = create_outcome()
    assert differences(run, create_outcome()) == []
    (found, *_) = differences(run._replace(**change(run)), create_outcome())
    assert difference in found


@pytest.mark.parametrize("found", [[], ["run1: confusion.csv differs"]])
def test_kills_status_reports_differences(monkeypatch, capsys, tmp_path, found):
    result = kills.Result(collections.Counter({kills.SAVE: 2, kills.START: 1}), 1, found)
    monkeypatch.setattr(kills, "kill_and_compare", lambda *arguments: result)
    monkeypatch.setattr(sys, "argv", ["kills.py", "--kills=3"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if found:
        with pytest.raises(SystemExit, match=r"run1: confusion.csv differs\nthe runs differ; they lie in"):
            kills.main()
    else:
        kills.main()
    assert capsys.readouterr().out.startswith("3 kills over 1 run: 1 in start-up, 2 in save\n")
    assert bool(list(tmp_path.iterdir())) == bool(found)


# Signals.


def hear_hangups():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # children of nohup ignore it


@pytest.fixture
def start(tmp_path_factory, subprocess_environment):
    """Return a function that starts a command such as ``"jaxresnet.main", "--workdir=..."``. Kill it at the end."""
    processes = []
    compiled = str(tmp_path_factory.getbasetemp() / "compiled-by-commands")

    def start(*arguments, options=()):
        process = subprocess.Popen(
            [sys.executable, *options, "-m", *arguments],
            env=subprocess_environment | {"JAX_COMPILATION_CACHE_DIR": compiled},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_hangups,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def answer_to(process, number):
    """Send a signal, wait for the process to end, and return its remaining lines on stderr."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return errors.splitlines()


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Return fields of the quick start's config for two epochs of four steps and an evaluation of 360 steps each."""
    digits = load_dataset("digits", None, 10)
    data = tmp_path_factory.mktemp("data") / "digits.npz"
    train = {"train_images": digits.train.images[:160], "train_labels": digits.train.labels[:160]}
    np.savez(data, **train, test_images=digits.test.images, test_labels=digits.test.labels)
    return {
        "dataset.name": "cifar10",
        "dataset.data_dir": str(data),
        "num_epochs": 2,
        "batch_size": 40,
        "eval_batch_size": 1,
        "model.channels": (4, 8),
        "model.blocks": (1, 1),
        "log_every_steps": 1,
    }


@pytest.fixture(scope="module")
def undisturbed(fields, tmp_path_factory):
    """Return config and outcome of the run with these fields."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(fields)
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train_and_evaluate(config, str(workdir))
    return config, read_outcome(config, workdir)


@pytest.mark.parametrize(
    ("moment", "number"),
    few_often(
        3,
        [
            ("step", signal.SIGTERM),
            ("evaluation", signal.SIGINT),
            ("step", signal.SIGHUP),
            ("evaluation", signal.SIGTERM),
            ("step", signal.SIGINT),
            ("evaluation", signal.SIGHUP),
        ],
    ),
)
def test_signal_saves_and_ends_run(start, fields, undisturbed, tmp_path, count, moment, number):
    """The exit status is the one of a shell for that signal, so a scheduler starts the run again."""
    config, expected = undisturbed
    workdir = tmp_path / "run"
    flags = ["--config=configs/quickstart.py", f"--workdir={workdir}", *arguments_of(fields)]
    process = start("jaxresnet.main", *flags)
    deadline = time.monotonic() + 120
    while len(read_metrics(workdir)) < (1 if moment == "step" else 3):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    if moment == "evaluation":
        time.sleep(0.3)  # The fourth step has passed by then.
    lines = answer_to(process, number)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}[number]
    last = read_metrics(workdir)[-1]
    assert not is_epoch_line(last)
    # The fourth step is an epoch's last, and writes no line before the evaluation. A slow machine may have reached it.
    steps = (4,) if moment == "evaluation" else (last["step"], last["step"] + 1)
    text = "jaxresnet: stopped by {} and saved after step {}; run the same command to resume"
    assert lines in [[text.format(number.name, step)] for step in steps]

    train_and_evaluate(config, str(workdir))
    assert differences(read_outcome(config, workdir), expected) == []
    count("signals answered")


def test_closed_terminal_saves_run(tmp_path, subprocess_environment):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "jaxresnet.main", "--config=configs/quickstart.py", f"--workdir={workdir}"]
    process, terminal = pty.fork()
    if process == 0:
        hear_hangups()
        os.chdir(REPOSITORY)
        os.execve(sys.executable, command, subprocess_environment)
    shown = b""
    while b"epoch 2/8" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert shown.splitlines()[0] == b"jaxresnet: starting ..."
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert max(steps) > 23 and not (workdir / "summary.json").exists()  # 23 steps are an epoch


def test_interrupted_command_has_signal_status(capsys):
    with pytest.raises(SystemExit) as end, cli.command():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "jaxresnet: interrupted\n"


def test_ignored_signals_stay_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with processes.stop_signal() as received:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            while not received:
                time.sleep(0.01)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_interrupted_status_survives_closed_stderr(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end, cli.command():
        patch.setattr(sys, "stderr", Gone())
        raise Interrupted("stopped", 143)
    assert end.value.code == 143
