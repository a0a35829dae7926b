"""A sweep on a Ray cluster of two nodes on this machine, one of which is killed."""

import itertools
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psutil
import pytest

from jaxresnet.workdir.log import is_epoch_line, read_metrics
from tests.conftest import REPOSITORY, arguments_of

PYTHON = REPOSITORY / ".venv-ray" / "bin" / "python"
EPOCHS = 60
SMALL = {
    "num_epochs": EPOCHS,
    "batch_size": 30,
    "eval_batch_size": 20,
    "model.channels": "(4,8)",
    "model.blocks": "(1,1)",
    "model.pooling": "global",
    "checkpoint.every_steps": 30,
}

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(not PYTHON.exists(), reason="make .venv-ray/installed"),
]


def processes_in(folder):
    """Return the processes of Ray whose command line names a folder, and their children."""
    found = [each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or [])]
    return [*found, *itertools.chain.from_iterable(each.children(recursive=True) for each in found)]


@pytest.fixture
def cluster(subprocess_environment):
    """Start two nodes with a CPU core each. Yield their folder, and the environment of commands that use them."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # A socket's path must be short.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    del subprocess_environment["JAX_NUM_CPU_DEVICES"]
    environment = subprocess_environment | {"RAY_ADDRESS": address, "RAY_USAGE_STATS_ENABLED": "0"}
    common = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000"]
    head = ["--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", f"--temp-dir={folder}"]
    try:
        for flags in (head, [f"--address={address}"]):
            line = [PYTHON, "-m", "ray.scripts.scripts", "start", *flags, *common]
            # Ray's processes inherit these files and stay, so a pipe would never end.
            with (folder / "start.log").open("ab") as log:
                subprocess.run(line, env=environment, stdout=log, stderr=log, timeout=90, check=True)
        yield folder, environment
    finally:
        for process in processes_in(folder):
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_runs_survive_a_killed_node(cluster, tiny_npz, tmp_path):
    """Two of three runs train when a node is killed. One of them goes on on the other node, and none is run twice."""
    folder, environment = cluster
    fields = arguments_of(SMALL | {"dataset.data_dir": tiny_npz})
    line = [PYTHON, "-m", "jaxresnet", "sweep", "--config=scheduler", "--arms=cosine,linear,one_cycle", "--on=ray"]
    line += [f"--workdir={tmp_path}", *fields]
    options = {"env": environment, "cwd": REPOSITORY, "text": True}

    def start():
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def wait_for(process, condition):
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()
            time.sleep(0.05)

    runs = [tmp_path / name / "seed0" for name in ("baseline", "scheduler/linear", "scheduler/one_cycle")]
    process = start()
    wait_for(process, lambda: all(len(read_metrics(run)) >= 10 for run in runs[:2]))
    (raylet,) = [
        each
        for each in processes_in(folder)
        if "raylet/raylet" in (words := " ".join(each.cmdline())) and "--head" not in words
    ]
    raylet.kill()
    wait_for(process, runs[2].exists)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.splitlines() == [
        "jaxresnet: stopped by SIGINT and saved the runs in progress; the same command resumes them"
    ]

    process = start()
    again, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "3 of 3 runs finished" in again, errors
    assert "failed" not in output + again
    for run in runs:
        assert [each["epoch"] for each in read_metrics(run) if is_epoch_line(each)] == [*range(1, EPOCHS + 1)]
    logs = [run.with_name("seed0.log").read_text() for run in runs]
    trained = len(re.findall(r"\nepoch \d+/", "".join(logs)))  # five epochs may lie behind a checkpoint of 30 steps
    assert output.count(": started") == 3 and trained <= 3 * EPOCHS + 8
    steps = [int(step) for log in logs for step in re.findall(r"resuming after step (\d+)", log)]
    assert any(step % 30 == 0 for step in steps)

    refused = subprocess.run([*line, "--gpus=1", "--seeds=2"], capture_output=True, timeout=60, **options)
    message = "jaxresnet: --cpus=1 --gpus=1: no node of the cluster has as many for a run"
    assert (refused.returncode, refused.stderr.splitlines()) == (2, [message])
