"""Workdirs that are read-only, full or in use: the message is clear, and good checkpoints stay."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys

import pytest

from jaxresnet.evaluate import evaluate_run
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.log import read_metrics
from tests.conftest import REPOSITORY, make_tiny_config
from tests.test_training import assert_same_run, finished, stop_after  # noqa: F401 (a fixture)

pytestmark = pytest.mark.reliability


@pytest.fixture
def small_disk(request, tmp_path):
    """Mount a file system of 4 MB, or of another size as a parameter."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={getattr(request, 'param', '4m')}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs more rights: {mounted.stderr}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk):
    """Write a file until nothing more fits."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


@pytest.mark.parametrize("dispatch", [1, 4, 6, 8, 12])
def test_full_disk_keeps_what_was_saved(
    finished,  # noqa: F811
    tiny_npz,
    small_disk,
    monkeypatch,
    capfd,
    count,
    dispatch,
):
    """The disk fills before the first checkpoint, between two, before an evaluation, and at the end."""
    _, expected, _ = finished
    workdir = small_disk / "run"
    config = make_tiny_config(tiny_npz)
    config.checkpoint.every_steps = 2
    with monkeypatch.context() as patch:
        stop_after(patch, dispatch, lambda: fill(small_disk))
        with pytest.raises((UserError, OSError), match=r"No space left|written") as error:
            train_and_evaluate(config, str(workdir))
    assert "\n" not in str(error.value)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err
    (small_disk / "ballast").unlink()
    saved = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    assert max(saved, default=0) == (dispatch - 1) // 2 * 2
    train_and_evaluate(config, str(workdir))
    assert_same_run(config, workdir, expected)
    count("full disks survived")


@pytest.mark.parametrize("small_disk", ["4k", "16k", "100k", "600k"], indirect=True)
def test_too_small_disk_gets_one_line(small_disk, subprocess_environment):
    command = [sys.executable, "-m", "jaxresnet.main", "--config=quickstart", f"--workdir={small_disk / 'run'}"]
    done = subprocess.run(
        [*command, "--config.num_epochs=1"],
        env=subprocess_environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("jaxresnet: ")
    assert "No space left" in done.stderr or "could not be written" in done.stderr


def test_read_only_run_is_only_scored(finished, tiny_npz, small_disk):  # noqa: F811
    config, whole, _ = finished
    workdir = small_disk / "run"
    shutil.copytree(whole, workdir)
    (workdir / "summary.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(OSError, match="Read-only file system"):
        train_and_evaluate(config, str(workdir))
    assert evaluate_run(str(workdir), "last")[0] == 12
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_workdir_in_use_is_refused(
    finished,  # noqa: F811
    tiny_config,
    tmp_path,
    monkeypatch,
    subprocess_environment,
):
    _, expected, _ = finished
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with contextlib.suppress(Exception):
            train_and_evaluate(tiny_config, str(workdir))
    hold = (
        "import pathlib, sys\n"
        "import filelock\n"
        "with filelock.FileLock(pathlib.Path(sys.argv[1]) / '.lock'):\n"
        "    print('here', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", hold, str(workdir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen(command, env=subprocess_environment, cwd=REPOSITORY, **pipes)
    try:
        assert other.stdout.readline() == "here\n"
        before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
        with pytest.raises(UserError, match="in use by another process"):
            train_and_evaluate(tiny_config, str(workdir))
        assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    finally:
        other.kill()  # SIGKILL, so the process cannot clean up
        other.communicate()
    train_and_evaluate(tiny_config, str(workdir))
    assert_same_run(tiny_config, workdir, expected)


@pytest.mark.parametrize("left", [".config.json.0123abcd.tmp", ".lock"])
def test_leftovers_of_killed_processes_are_ignored(tiny_config, tmp_path, left):
    tiny_config.num_epochs = 1
    (tmp_path / left).write_text("{")
    train_and_evaluate(tiny_config, str(tmp_path))
    assert not list(tmp_path.glob(".*.tmp")) and len(read_metrics(tmp_path)) == 3
