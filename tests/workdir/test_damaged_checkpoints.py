"""Damaged checkpoints are noticed, named and moved away, and the run resumes from the previous one."""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxresnet.core.state import create_train_state
from jaxresnet.evaluate import evaluate_run
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.checkpoint import Checkpointer, Progress
from jaxresnet.workdir.folder import DAMAGED_FOLDER
from jaxresnet.workdir.log import read_metrics
from tests.conftest import REPOSITORY, make_tiny_config

pytestmark = pytest.mark.reliability

MANY = settings(max_examples=max(50, settings.default.max_examples))

# Trains as the command does, with the config of the run.
COMMAND = """
import pathlib, sys, time
from jaxresnet import cli
from jaxresnet.training import train_and_evaluate
from jaxresnet.config import load_config
with cli.command():
    train_and_evaluate(load_config(pathlib.Path(sys.argv[1])), sys.argv[1])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_npz):
    """Return config and workdir of a finished run that kept the checkpoints of steps 11 and 12."""
    config = make_tiny_config(tiny_npz)
    config.checkpoint.every_steps = 1
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(config, str(workdir))
    assert {11, 12} <= steps_of(workdir)
    return config, workdir


@pytest.fixture(scope="module")
def saved(run):
    """Return the content of the checkpoints of both steps."""
    config, workdir = run
    with Checkpointer(workdir, read_only=True) as checkpointer:
        return {step: checkpointer.restore(create_train_state(config, (32, 32, 3)), step) for step in (11, 12)}


def steps_of(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


def copy_of(workdir, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(workdir, target)
    return target


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def assert_holds(restored, expected):
    (state, progress), (expected_state, expected_progress) = restored, expected
    trees = [(each.step, each.variables, each.opt_state) for each in (state, expected_state)]
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_array_equal(a, b)
    assert progress == expected_progress
    for a, b in zip(*(jax.tree.leaves(each.best_variables) for each in (progress, expected_progress)), strict=True):
        np.testing.assert_array_equal(a, b)


def damage(path, kind, share):
    content = bytearray(path.read_bytes())
    position = min(int(share * len(content)), len(content) - 1)
    if kind == "missing":
        path.unlink()
        return
    if kind == "truncated":
        content = content[:position]
    elif kind == "zeroed":
        content = bytes(len(content))
    else:
        content[position] ^= 1 << (int(share * 1e6) % 8)
    path.write_bytes(content)


@MANY
@given(
    kind=st.sampled_from(["missing", "truncated", "zeroed", "a bit flipped"]),
    file=st.integers(0, 99),
    share=st.floats(0, 1, exclude_max=True),
)
def test_damaged_checkpoint_is_never_restored_wrongly(run, saved, tmp_path_factory, capsys, count, kind, file, share):
    """If damage to a file of the newest checkpoint matters, the previous checkpoint is restored."""
    config, whole = run
    workdir = copy_of(whole, tmp_path_factory.getbasetemp() / "damaged")
    files = files_of(workdir / "checkpoints" / "12")
    damage(files[file % len(files)], kind, share)
    with Checkpointer(workdir, keep=2) as checkpointer:
        restored = checkpointer.restore_newest(create_train_state(config, (32, 32, 3)))
    note = capsys.readouterr().err
    step = int(restored[0].step)
    assert_holds(restored, saved[step])
    if step == 12:
        assert note == "" and steps_of(workdir) == {11, 12}
        count("damaged checkpoints restored rightly, as the damage touched nothing that matters")
    else:
        assert "12 is damaged" in note and "goes on from step 11" in note and note.count("\n") == 1
        assert (workdir / DAMAGED_FOLDER / "12").is_dir() and steps_of(workdir) == {11}
        count("damaged checkpoints noticed, the one before restored")


@pytest.mark.parametrize("kind", ["missing", "truncated", "zeroed", "a bit flipped"])
def test_run_survives_damaged_newest_checkpoint(run, tmp_path, capsys, kind):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    (workdir / "summary.json").unlink()
    for file in (workdir / "checkpoints" / "12" / "state").rglob("d/*"):  # orbax does not read every file again
        for share in (0.2, 0.5, 0.8)[: 3 if kind == "a bit flipped" else 1]:
            damage(file, kind, share)
    with pytest.raises(UserError, match=r"12 is damaged "):
        evaluate_run(str(workdir), "last")
    assert evaluate_run(str(workdir), "11")[0] == 11
    capsys.readouterr()
    train_and_evaluate(config, str(workdir))
    assert "12 is damaged" in capsys.readouterr().err
    summaries = [json.loads((path / "summary.json").read_text()) for path in (workdir, whole)]
    assert summaries[0]["last"] == summaries[1]["last"] and summaries[0]["best"] == summaries[1]["best"]
    assert [line["train_loss"] for line in read_metrics(workdir)] == [
        line["train_loss"] for line in read_metrics(whole)
    ]
    assert evaluate_run(str(workdir), "last")[0] == 12


def test_run_without_undamaged_checkpoint_is_refused(run, tmp_path):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    (workdir / "summary.json").unlink()
    for file in (workdir / "checkpoints").rglob("d/*"):
        damage(file, "zeroed", 0)
    before = {path: path.read_bytes() for path in files_of(workdir)}
    with pytest.raises(UserError, match=r"no checkpoint left that can be read.* or give another --workdir") as error:
        train_and_evaluate(config, str(workdir))
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in files_of(workdir)} == before  # nothing was lost


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), OSError(24, "Too many open files"), ValueError("PERMISSION_DENIED: x")],
)
def test_unreadable_checkpoint_is_not_moved(run, tmp_path, monkeypatch, error):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")

    def restore(*arguments, **options):
        raise RuntimeError("orbax") from error

    with Checkpointer(workdir, keep=2) as checkpointer:
        monkeypatch.setattr(checkpointer._manager, "restore", restore)
        with pytest.raises(UserError, match=r"12 cannot be read \(orbax\); fix that, and run the same command"):
            checkpointer.restore_newest(create_train_state(config, (32, 32, 3)))
    assert steps_of(workdir) == {11, 12} and not (workdir / DAMAGED_FOLDER).exists()


def test_all_damaged_checkpoints_are_kept(run, tmp_path):
    config, whole = run
    workdir = tmp_path / "run"
    copy_of(whole, workdir)
    for _ in range(3):
        shutil.copytree(whole / "checkpoints", workdir / "checkpoints", dirs_exist_ok=True)
        damage(workdir / "checkpoints" / "12" / "progress" / "metadata", "zeroed", 0)
        with Checkpointer(workdir, keep=2) as checkpointer:
            checkpointer.restore_newest(create_train_state(config, (32, 32, 3)))
    assert {path.name for path in (workdir / DAMAGED_FOLDER).iterdir()} == {"12", "12.2", "12.3"}


def test_swapped_checkpoints_are_damaged(run, tmp_path, capsys):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    folder = workdir / "checkpoints"
    for source, target in (("11", "aside"), ("12", "11"), ("aside", "12")):
        (folder / source).rename(folder / target)
    for name in ("last", "best", "11"):
        with pytest.raises(UserError, match=r"is damaged \(it is that of step 1[12]\)"):
            evaluate_run(str(workdir), name)
    (workdir / "summary.json").unlink()
    with pytest.raises(UserError, match="no checkpoint left that can be read"):
        train_and_evaluate(config, str(workdir))


def test_damaged_checkpoint_prints_one_line(run, tmp_path, subprocess_environment):
    """Reads that end after one has failed report to an event loop that orbax has closed."""
    _, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    (workdir / "summary.json").unlink()
    for file in (workdir / "checkpoints" / "12" / "state").glob("d/*"):
        damage(file, "truncated", 0.1)
    program = f"{COMMAND}time.sleep(1)\n"
    command = [sys.executable, "-c", program, str(workdir)]
    done = subprocess.run(
        command, env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    assert re.fullmatch(r"note: the checkpoint .*12 is damaged .*; it is now in .*\n", done.stderr)


def test_full_disk_keeps_the_earlier_checkpoint(tiny_config, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("No space left on device")

    state = create_train_state(tiny_config, (32, 32, 3))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, Progress("checksum"))
        monkeypatch.setattr(checkpointer._manager, "save", fail)
        with pytest.raises(UserError, match=r"No space left on device.*: the checkpoint of step 0 is kept"):
            checkpointer.save(state.replace(step=np.int32(1)), Progress("checksum"))


def test_best_variables_outlast_their_checkpoint(tiny_config, tmp_path):
    state = create_train_state(tiny_config, (32, 32, 3))
    later = state.replace(step=np.int32(5), params=jax.tree.map(lambda leaf: leaf + 1, state.params))
    best = {"epoch": 1, "step": 2, "loss": 2.0, "accuracy": 20.0}
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(later, Progress("checksum", best=best, best_variables=state.variables))
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        restored, _ = checkpointer.restore_named(state, "best")
        last, _ = checkpointer.restore_named(state, "last")
    assert (int(restored.step), int(last.step)) == (2, 5)
    for actual, expected in ((restored, state), (last, later)):
        jax.tree.map(np.testing.assert_array_equal, actual.variables, expected.variables)


def test_step_saved_again_has_new_progress(tiny_config, tmp_path):
    """A step is saved twice if a signal stopped its evaluation."""
    state = create_train_state(tiny_config, (32, 32, 3))
    with Checkpointer(tmp_path) as checkpointer:
        for epoch in (0, 1):
            checkpointer.save(state, Progress("checksum", epoch=epoch))
        assert checkpointer.restore_newest(state)[1].epoch == 1
