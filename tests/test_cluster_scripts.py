"""Cluster scripts, with stand-ins for the programs that only a cluster has."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.reliability


@pytest.fixture
def root(tmp_path):
    """Return a folder like the repository's, with an empty environment."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    return tmp_path


@pytest.fixture
def call(root, subprocess_environment):
    """Return a function that runs a script in that folder. Stand-ins, by name and text, come first on the path."""

    def call(script, *arguments, stand_ins, **environment):
        folder = root / "stand-ins"
        folder.mkdir(exist_ok=True)
        for name, text in stand_ins.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        path = f"{folder}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(REPOSITORY / "scripts" / script), *arguments],
            env=subprocess_environment | {"PATH": path, **environment},
            cwd=root,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


# Like SLURM, this starts two tasks and tells each its number. It ends with the first nonzero status.
SRUN = """
shift
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & done
wait -n && wait -n
"""


def test_hosts_script_trains_two_processes(call, root):
    flags = ["--config=configs/quickstart.py", "--config.model.channels=(4,)", "--config.model.blocks=(1,)"]
    flags += ["--config.model.pooling=global", "--config.num_epochs=1", "--workdir=runs/a run"]
    # JAX derives a port from the job's number.
    done = call("hosts.slurm", *flags, stand_ins={"srun": SRUN}, SLURM_JOB_ID=str(os.getpid()))
    assert done.returncode == 0, done.stderr
    assert json.loads((root / "runs" / "a run" / "summary.json").read_text())["process_count"] == 2


@pytest.mark.parametrize(("status", "requeued"), [(143, "requeue 17\n"), (1, "")])
def test_only_a_stopped_job_is_requeued(call, status, requeued):
    stand_ins = {"srun": f"exit {status}", "scontrol": 'echo "$@"'}
    done = call("hosts.slurm", stand_ins=stand_ins, SLURM_JOB_ID="17")
    assert (done.returncode, done.stdout) == (status, requeued)


@pytest.mark.parametrize(("status", "requeued"), [(143, ["requeue 17_2"]), (1, []), (0, [])])
def test_array_task_runs_its_line(call, root, status, requeued):
    """The second line's folder contains a space, quoted as ``jaxresnet.sweep --list`` quotes it."""
    (root / "runs.txt").write_text("python first\njaxresnet train '--workdir=a run'\n")
    stand_ins = {"srun": f'printf "%s\\n" "$@"; exit {status}', "scontrol": 'echo "$@"'}
    done = call("sweep.slurm", "runs.txt", stand_ins=stand_ins, SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_JOB_ID="17")
    command, *words = done.stdout.splitlines()
    assert done.returncode == status and command == "jaxresnet train '--workdir=a run'"
    assert words == ["jaxresnet", "train", "--workdir=a run", *requeued]


def test_cluster_files_run_listed_commands(root, subprocess_environment):
    """A pod runs the line of its number, and SkyPilot's machine a sweep of the table that the file names."""
    (root / "runs.txt").write_text("printf no\\n\nprintf '%s\\n' '--workdir=a run'\n")
    job = yaml.safe_load((REPOSITORY / "scripts" / "sweep.job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    options = {"cwd": root, "capture_output": True, "text": True, "timeout": 60}
    environment = subprocess_environment | {"JOB_COMPLETION_INDEX": "1"}
    assert subprocess.run(container["command"], env=environment, **options).stdout == "--workdir=a run\n"
    task = yaml.safe_load((REPOSITORY / "scripts" / "sweep.sky.yaml").read_text())
    line = task["run"].replace("jaxresnet", f"{sys.executable} -m jaxresnet") + " --dry_run"
    done = subprocess.run(line, shell=True, env=subprocess_environment | task["envs"], **options)
    assert f"\n{job['spec']['completions']} runs; " in done.stdout, done.stderr


def test_pod_script_passes_flags_on(call):
    flags = ["--config=configs/final.py", "--config.model.channels=(4, 8)", "--workdir=/mnt/shared/a run"]
    done = call("tpu_pod.sh", "slice", "europe-west4-b", *flags, stand_ins={"gcloud": 'printf "%s\\n" "$@"'})
    *words, command = done.stdout.splitlines()
    assert words == ["compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=europe-west4-b", "--worker=all"]
    words = subprocess.run(
        ["bash", "-c", f'printf "%s\\n" {command.partition("activate && ")[2]}'], capture_output=True, text=True
    ).stdout.splitlines()
    assert words == ["jaxresnet", "train", "--coordinator=auto", *flags]
