"""Several processes on one machine that train one run with CPU collectives."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from jaxresnet.config import load_config
from jaxresnet.system.errors import UserError
from jaxresnet.system.processes import connect
from jaxresnet.workdir.log import read_metrics
from tests.conftest import REPOSITORY
from tests.test_training import assert_same_run

pytestmark = pytest.mark.reliability

SECONDS = 120  # timeout of each wait, on a busy machine


@pytest.fixture
def start(tmp_path_factory, subprocess_environment):
    """Return a function that starts the processes of a run with two devices in total. Kill them at the end."""
    processes = []
    compiled = str(tmp_path_factory.getbasetemp() / "compiled-by-commands")

    def start(workdir, number=2, *flags):
        devices = {"JAX_NUM_CPU_DEVICES": str(2 // number), "JAX_COMPILATION_CACHE_DIR": compiled}
        command = [sys.executable, "-m", "jaxresnet.main", "--config=configs/quickstart.py", f"--workdir={workdir}"]
        command += ["--config.model.channels=(4,8)", "--config.model.blocks=(1,1)", "--config.num_epochs=3"]
        command += ["--config.model.pooling=global", "--config.checkpoint.every_steps=5", "--config.log_every_steps=2"]
        command += flags
        if number > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            command += [f"--coordinator=localhost:{port}", f"--num_processes={number}"]
        started = []
        for index in range(number):
            started.append(
                subprocess.Popen(
                    command + [f"--process_id={index}"] * (number > 1),
                    env=subprocess_environment | devices,
                    cwd=REPOSITORY,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        processes.extend(started)
        return started

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def outputs(processes):
    """Wait for all processes, and return exit status, stdout and stderr of each."""
    ends = [process.communicate(timeout=SECONDS) for process in processes]
    return [(process.returncode, *end) for process, end in zip(processes, ends, strict=True)]


def wait_for_lines(workdir, number, processes):
    deadline = time.monotonic() + SECONDS
    while len(read_metrics(workdir)) < number:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts") / "one-process"


@pytest.fixture
def by_one(start, whole):
    """Return the workdir of the run by one process with two devices."""
    if not whole.exists():
        assert outputs(start(whole, 1))[0][0] == 0
    return whole


def test_two_processes_train_like_one(start, by_one, tmp_path):
    workdir = tmp_path / "run"
    (status, said, _), (other_status, other_said, _) = outputs(start(workdir))
    assert (status, other_status) == (0, 0)
    assert "last epoch (3)" in said and "last epoch" not in other_said and "epoch 1/3" not in other_said
    assert_same_run(load_config(workdir), workdir, by_one)
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    summaries = [json.loads((path / "summary.json").read_text()) for path in (workdir, by_one)]
    assert [(summary["process_count"], summary["device_count"]) for summary in summaries] == [(2, 2), (1, 2)]
    # A run that two processes finished is also finished for one process.
    status, said, _ = outputs(start(workdir, 1))[0]
    assert status == 0 and "finished" in said


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_survivors_end_and_the_run_resumes(start, by_one, tmp_path, count, killed):
    """The moment of the kill varies. It may come while the two processes exchange data or save."""
    workdir = tmp_path / "run"
    processes = start(workdir)
    wait_for_lines(workdir, 5, processes)
    processes[killed].kill()
    status, _, errors = outputs(processes)[1 - killed]
    assert status != 0 and ("another process of this run has ended" in errors or "another task died" in errors)
    assert "Traceback" not in errors
    assert not (workdir / "summary.json").exists(), "the run ended before it could be killed"
    assert [each[0] for each in outputs(start(workdir))] == [0, 0]
    assert_same_run(load_config(workdir), workdir, by_one)
    count("deaths of one of two processes survived")


def test_all_processes_notice_a_damaged_checkpoint(start, by_one, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(by_one, workdir)
    (workdir / "summary.json").unlink()
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for file in newest.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-9])
    (status, _, errors), (other_status, _, other_errors) = outputs(start(workdir))
    assert (status, other_status) == (0, 0)
    assert errors.count("is damaged") == 1 and "is damaged" not in other_errors
    assert (workdir / "damaged-checkpoints" / newest.name).is_dir()
    assert_same_run(load_config(workdir), workdir, by_one)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
def test_signal_saves_and_ends_all_processes(start, by_one, tmp_path, number):
    """The run then resumes with another number of processes."""
    workdir = tmp_path / "run"
    processes = start(workdir)
    wait_for_lines(workdir, 5, processes)
    os.kill(processes[1].pid, number)
    ends = outputs(processes)
    assert [status for status, _, _ in ends] == [128 + number] * 2
    assert all(f"stopped by {number.name} and saved after step" in errors for _, _, errors in ends)
    assert outputs(start(workdir, 1))[0][0] == 0
    assert_same_run(load_config(workdir), workdir, by_one)


def test_no_process_is_left_waiting(start, tmp_path):
    """The first process finds no data while the other waits for it."""
    ends = outputs(start(tmp_path / "run", 2, "--config.dataset.name=cifar10", f"--config.dataset.data_dir={tmp_path}"))
    assert all(status != 0 for status, _, _ in ends)
    assert "holds no cifar10" in ends[0][2] and "Traceback" not in ends[0][2] + ends[1][2]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [(None, None), (2, None), (2, 2), (2, -1)])
def test_unnumbered_processes_are_refused(arguments):
    with pytest.raises(UserError, match="give --num_processes, and --process_id from 0"):
        connect("localhost:1234", *arguments)


def test_process_ends_without_its_first(monkeypatch, capsys):
    def lose_the_others():
        raise RuntimeError("Unable to initialize backend 'cpu': UNAVAILABLE:\nSocket closed")

    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **options: None)
    monkeypatch.setattr(jax, "devices", lose_the_others)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as end:
        connect("localhost:1234", 2, 1)
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "jaxresnet: another process of this run has ended, or JAX failed here (Unable to initialize backend 'cpu': "
        "UNAVAILABLE: Socket closed); start all processes again to resume\n"
    )
