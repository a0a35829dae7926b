"""``scripts/sweep.slurm`` under a real SLURM on this machine: an array, a failing task, a time limit and a requeue."""

import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from jaxresnet.workdir.folder import read_summary
from jaxresnet.workdir.log import is_epoch_line, read_metrics
from tests.conftest import REPOSITORY, arguments_of

MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
EPOCHS = 700  # more than a minute, because SLURM looks at time limits every 30 seconds

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(bool(MISSING) or os.getuid() != 0, reason="apt install slurm-wlm munge, and be root"),
]

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(subprocess_environment):
    """Start SLURM with one node of two cores. Return a function that runs one of its programs."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # A socket's path must be short.
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (first, second)]
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, ports=ports))
    environment = subprocess_environment | {"SLURM_CONF": str(folder / "slurm.conf")}
    files = {name: f"{folder}/munge.{name}" for name in ("socket", "pid", "log", "seed")}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={files['socket']}"]
    munged += [f"--{name}-file={files[name]}" for name in ("pid", "log", "seed")]
    daemons = []
    try:
        for line in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{line[0]}.out").open("wb") as log:
                daemons.append(subprocess.Popen(line, env=environment, stdout=log, stderr=log))
            time.sleep(1)

        def call(*line, cwd=folder):
            done = subprocess.run(line, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield call
        call("scancel", "--user=root")
        time.sleep(2)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def test_array_fails_requeues_and_completes(slurm, tiny_npz, tmp_path):
    root = tmp_path / "root"
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / "configs").symlink_to(REPOSITORY / "configs")
    program = root / ".venv" / "bin" / "jaxresnet"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -m jaxresnet "$@"\n')
    program.chmod(0o755)
    (program.parent / "activate").write_text(f"PATH={program.parent}:$PATH\n")
    small = {"batch_size": 30, "eval_batch_size": 20, "model.channels": "(4,8)", "model.blocks": "(1,1)"}
    small |= {"model.pooling": "global", "eval_every_epochs": 100}
    lines = []
    for arm, data, epochs in (("cosine", tiny_npz, 2), ("linear", "/nowhere", 2), ("one_cycle", tiny_npz, EPOCHS)):
        flags = arguments_of(small | {"dataset.data_dir": data, "num_epochs": epochs})
        sweep = [str(program), "sweep", "--config=scheduler", f"--arms={arm}", "--workdir=runs", "--list", *flags]
        lines.append(slurm(*sweep, cwd=root))
    (root / "runs.txt").write_text("".join(lines))
    limits = ["--gres=none", "--cpus-per-task=1", "--mem=1000", "--time=60"]
    script = str(REPOSITORY / "scripts" / "sweep.slurm")
    number = slurm("sbatch", "--parsable", "--array=1-3%2", *limits, script, "runs.txt", cwd=root).strip()

    def show(task):
        """Return the state, the number of restarts and the exit code of a task."""
        text = slurm("scontrol", "show", "job", "-o", f"{number}_{task}")
        return [re.search(f"{name}=(\\S+)", text)[1] for name in ("JobState", "Restarts", "ExitCode")]

    def wait_for(condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, [show(task) for task in (1, 2, 3)]
            time.sleep(0.5)

    run = root / "runs" / "scheduler" / "one_cycle" / "seed0"
    wait_for(lambda: len(read_metrics(run)) >= 5, 180)
    # The time limit comes within the two minutes in which the script asks for SIGTERM.
    slurm("scontrol", "update", f"JobId={number}_3", "TimeLimit=1")
    wait_for(lambda: show(3)[:2] == ["PENDING", "1"], 120)
    slurm("scontrol", "update", f"JobId={number}_3", "TimeLimit=60")
    wait_for(lambda: show(3)[0] == "COMPLETED", 300)
    assert [show(task) for task in (1, 2, 3)] == [
        ["COMPLETED", "0", "0:0"],
        ["FAILED", "0", "1:0"],
        ["COMPLETED", "1", "0:0"],
    ]
    logs = [(root / f"slurm-{number}_{task}.log").read_text() for task in (1, 2, 3)]
    assert "/nowhere" in logs[1]
    assert "stopped by SIGTERM and saved" in logs[2] and "resuming after step" in logs[2]
    assert read_summary(root / "runs" / "baseline" / "seed0")["last"]["epoch"] == 2
    assert [each["epoch"] for each in read_metrics(run) if is_epoch_line(each)] == [*range(100, EPOCHS + 1, 100)]
