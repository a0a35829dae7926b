"""Sweeps with several runs at a time, on this machine."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from jaxresnet import engines, sweep
from jaxresnet.system.errors import UsageError, UserError
from jaxresnet.workdir.folder import locked
from jaxresnet.workdir.log import is_epoch_line, read_metrics
from tests.conftest import REPOSITORY, arguments_of

SMALL = {
    "num_epochs": 60,
    "batch_size": 30,
    "eval_batch_size": 20,
    "model.channels": "(4,8)",
    "model.blocks": "(1,1)",
    "model.pooling": "global",
}


def wait_for(condition, process, seconds=180):
    """Wait until ``condition`` holds, while the process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def test_more_jobs_than_devices(monkeypatch):
    monkeypatch.setattr(engines, "_devices", lambda: ("GPUs", [*"01234567"]))
    with pytest.raises(UsageError, match="--jobs=9: JAX sees 8 GPUs here; give 1 to 8"):
        engines.Local(9)


def test_gpus_are_shared_evenly(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "_devices", lambda: ("GPUs", [*"01234567"]))
    program = tmp_path / "python"
    program.write_text('#!/bin/bash\necho "$CUDA_VISIBLE_DEVICES $4"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    engine = engines.Local(3)
    runs = [engine.start(["--seed"], tmp_path / f"seed{number}") for number in range(3)]
    assert [run.wait() for run in runs] == [engine.poll(run) for run in runs] == [0, 0, 0]
    logs = [(tmp_path / f"seed{number}.log").read_text() for number in range(3)]
    assert logs == ["0,1 --seed\n", "2,3,4 --seed\n", "5,6,7 --seed\n"]


def test_killed_run_is_named(monkeypatch, tmp_path):
    """One of three runs is killed and one fails. The terminal shows a bar for each, and one for all."""
    monkeypatch.setattr(engines, "_devices", lambda: ("GPUs", [*"01"]))
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/bash\nsleep 0.2\n"
        "case $4 in *one_cycle*) kill -9 $$;; *cosine*) exit 0;; *) echo jaxresnet: no data; exit 1;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sweep, "SECONDS_BETWEEN_POLLS", 0.05)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    planned = sweep.plan_jobs("scheduler", ["cosine", "one_cycle", "linear"], 1, {}, tmp_path / "runs")
    failures = sweep.run_together(planned, engines.Local(2))
    log = tmp_path / "runs" / "scheduler" / "one_cycle" / "seed0.log"
    assert sorted(failures) == ["linear, seed 0: no data", f"one_cycle, seed 0: ended by SIGKILL; see {log}"]
    shown = terminal.getvalue()
    assert "3 of 3 runs to do, 2 at a time" in shown and "1 of 3 runs finished" in shown
    for name in ("cosine, seed 0   ", "one_cycle, seed 0", "linear, seed 0   "):
        assert f"0%|          | {name}  starting ...  ? left" in shown
    assert "%|          | all runs           ? left" in shown


@pytest.mark.parametrize("flag", ["--seeds=0", "--jobs=0", "--cpus=-1"])
def test_numbers_below_one_are_refused(capsys, flag):
    with pytest.raises(SystemExit):
        sweep.main(["--config=scheduler", "--workdir=runs", flag])
    name, value = flag.split("=")
    assert f"argument {name}: invalid positive number value: '{value}'" in capsys.readouterr().err


def test_missing_ray_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed; pip install 'jaxresnet\[ray\]'"):
        engines.Ray(tmp_path, 1, 0)


def test_room_is_that_of_nodes(tmp_path, monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 3.0}}]
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0}})
    ray = types.SimpleNamespace(init=lambda *_, **__: None, nodes=lambda: nodes, remote=lambda **_: lambda f: f)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert engines.Ray(tmp_path, 2, 0).room == 3 and engines.Ray(tmp_path, 1, 1).room == 2
    assert engines.Ray(tmp_path, 1, 0, 4).room == 4
    for gpus in (3, -1):
        with pytest.raises(UsageError, match="no node of the cluster has as many"):
            engines.Ray(tmp_path, 1, gpus)


def test_absent_cluster_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"there is no cluster \(.* refused\); start one with `ray start --head`"):
        engines.Ray(tmp_path, 1, 0)


def test_node_must_share_folder(tmp_path):
    with pytest.raises(UserError, match=f"does not share {tmp_path}/runs; mount it there, at the same path"):
        engines._train_on_node([], tmp_path / "runs", tmp_path / "runs" / "seed0", tmp_path, 1)


def test_two_sweeps_need_two_folders(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(engines, "_devices", lambda: ("GPUs", ["0"]))
    with locked(tmp_path), pytest.raises(SystemExit, match="1"):
        sweep.main(["--config=scheduler", f"--workdir={tmp_path}", "--jobs=1"])
    message = f"jaxresnet: {tmp_path} is in use by another process; wait, or give another --workdir\n"
    assert capsys.readouterr().err == message


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU core")
@pytest.mark.reliability
def test_two_jobs_stop_and_resume(tiny_npz, tmp_path, subprocess_environment):
    """Two of three runs train on a core each. SIGTERM saves both, and the same command finishes all three."""
    line = [sys.executable, "-m", "jaxresnet", "sweep", "--config=scheduler", "--arms=cosine,linear,one_cycle"]
    line += ["--jobs=2", f"--workdir={tmp_path}", *arguments_of(SMALL | {"dataset.data_dir": tiny_npz})]
    del subprocess_environment["JAX_NUM_CPU_DEVICES"]
    options = {"env": subprocess_environment, "cwd": REPOSITORY, "text": True}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    folders = [tmp_path / name / "seed0" for name in ("baseline", "scheduler/linear", "scheduler/one_cycle")]
    wait_for(lambda: all(len(read_metrics(folder)) >= 2 for folder in folders[:2]), process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.splitlines() == [
        "jaxresnet: stopped by SIGTERM and saved the runs in progress; the same command resumes them"
    ]
    assert "failed" not in output and not folders[2].exists()

    done = subprocess.run(line, capture_output=True, timeout=300, **options)
    assert done.returncode == 0 and "3 of 3 runs finished" in done.stdout, done.stderr
    for folder in folders:
        assert [each["epoch"] for each in read_metrics(folder) if is_epoch_line(each)] == [*range(1, 61)]
        assert json.loads((folder / "summary.json").read_text())["device_count"] == 1
    assert ["resuming after step" in engines.log_file(folder).read_text() for folder in folders] == [True, True, False]
