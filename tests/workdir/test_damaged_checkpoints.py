"""Damaged checkpoints are noticed, named and moved away, and the run resumes from the previous one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxresnet.core.state import create_train_state
from jaxresnet.evaluate import evaluate_run
from jaxresnet.system.errors import Diverged, Interrupted, UserError
from jaxresnet.training import loop, train_and_evaluate
from jaxresnet.workdir.checkpoint import Checkpointer, _writes_in_background
from jaxresnet.workdir.folder import DAMAGED_FOLDER, FAILURE_FILE
from jaxresnet.workdir.log import read_metrics
from jaxresnet.workdir.progress import Progress
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
def test_of_a_checkpoint_with_a_damaged_file_nothing_wrong_is_ever_restored(
    run, saved, tmp_path_factory, capsys, count, kind, file, share
):
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
def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_it_would_have(run, tmp_path, capsys, kind):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    (workdir / "summary.json").unlink()
    for file in (workdir / "checkpoints" / "12" / "state").rglob("d/*"):  # orbax does not read every file again
        for share in (0.2, 0.5, 0.8)[: 3 if kind == "a bit flipped" else 1]:
            damage(file, kind, share)
    with pytest.raises(UserError, match=r"12 is damaged .*; give another --checkpoint, or resume training from"):
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


def test_a_checkpoint_that_is_gone_is_missed(run, saved, tmp_path, capsys):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "12")
    with Checkpointer(workdir, keep=2) as checkpointer:
        assert_holds(checkpointer.restore_newest(create_train_state(config, (32, 32, 3))), saved[11])
    assert capsys.readouterr().err == "note: the checkpoint of step 12 is gone; going on from step 11\n"


@pytest.mark.parametrize("left", ["damaged", "gone", "gone, and the note of them damaged"])
def test_a_run_without_any_good_checkpoint_does_not_silently_begin_anew(run, tmp_path, left):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    (workdir / "summary.json").unlink()
    if left == "damaged":
        for file in (workdir / "checkpoints").rglob("d/*"):
            damage(file, "zeroed", 0)
    else:
        shutil.rmtree(workdir / "checkpoints")
    if "note" in left:
        (workdir / "newest-checkpoint.json").write_bytes(b"\0\xff")
    before = {path: path.read_bytes() for path in files_of(workdir)}
    with pytest.raises(UserError, match=r"no checkpoint left that can be read.* or give another --workdir") as error:
        train_and_evaluate(config, str(workdir))
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in files_of(workdir)} == before  # nothing was lost


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), OSError(24, "Too many open files"), ValueError("PERMISSION_DENIED: x")],
)
def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(run, tmp_path, monkeypatch, error):
    config, whole = run
    workdir = copy_of(whole, tmp_path / "run")

    def restore(*arguments, **options):
        raise RuntimeError("orbax") from error

    with Checkpointer(workdir, keep=2) as checkpointer:
        monkeypatch.setattr(checkpointer._manager, "restore", restore)
        with pytest.raises(UserError, match=r"12 cannot be read \(orbax\); fix that, and run the same command"):
            checkpointer.restore_newest(create_train_state(config, (32, 32, 3)))
    assert steps_of(workdir) == {11, 12} and not (workdir / DAMAGED_FOLDER).exists()


@pytest.mark.parametrize("left", ["a leftover", "nothing", "no folder"])
def test_a_command_without_any_checkpoint_prints_one_line(run, tmp_path, subprocess_environment, left):
    """Stderr is read to the end of the process, because orbax's threads outlive the command."""
    _, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints")
    if left != "no folder":
        (workdir / "checkpoints").mkdir()
    if left == "a leftover":
        (workdir / "checkpoints" / "13.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, str(workdir)],
            env=subprocess_environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
        )
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and "has no checkpoint left that can be read; put checkpoints/ back" in line


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_finished_run_misses_its_last_checkpoint_without_the_note_of_it(run, tmp_path, name):
    _, whole = run
    workdir = copy_of(whole, tmp_path / "run")
    (workdir / "newest-checkpoint.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "12")
    with pytest.raises(UserError, match="its last checkpoint, of step 12, is gone"):
        evaluate_run(str(workdir), name)


def test_damaged_checkpoints_of_one_step_are_all_kept(run, tmp_path):
    config, whole = run
    workdir = tmp_path / "run"
    copy_of(whole, workdir)
    for _ in range(3):
        shutil.copytree(whole / "checkpoints", workdir / "checkpoints", dirs_exist_ok=True)
        damage(workdir / "checkpoints" / "12" / "progress" / "metadata", "zeroed", 0)
        with Checkpointer(workdir, keep=2) as checkpointer:
            checkpointer.restore_newest(create_train_state(config, (32, 32, 3)))
    assert {path.name for path in (workdir / DAMAGED_FOLDER).iterdir()} == {"12", "12.2", "12.3"}


def test_a_resumed_run_keeps_its_best_checkpoint(tiny_config, tmp_path):
    state = create_train_state(tiny_config, (32, 32, 3))

    def save(*steps):
        with Checkpointer(tmp_path, keep=1) as checkpointer:
            checkpointer.restore_newest(state)
            for step in steps:
                best = {"epoch": 1, "step": 1, "loss": 2.0, "accuracy": 20.0}
                checkpointer.save(state.replace(step=np.int32(step)), Progress("checksum", best=best))

    save(1, 2)
    save(3, 4)
    assert steps_of(tmp_path) == {1, 4}


@pytest.fixture
def on_accelerators(monkeypatch):
    """Make checkpoints be written as on accelerators: by a thread."""
    monkeypatch.setattr("jaxresnet.workdir.checkpoint._writes_in_background", lambda: True)


def test_a_thread_saves_the_state_as_it_was_while_training_overwrites_it(tiny_config, tmp_path, on_accelerators):
    state = create_train_state(tiny_config, (32, 32, 3))
    expected = jax.device_get(state.params)
    overwrite = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)
    progress = Progress("checksum", epoch=3)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, progress)
        jax.block_until_ready(overwrite(state.params))
        progress.epoch = 4
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        restored, progress = checkpointer.restore(create_train_state(tiny_config, (32, 32, 3)), 0)
    assert progress.epoch == 3
    for actual, leaf in zip(jax.tree.leaves(restored.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(actual, leaf)


def test_training_goes_on_while_a_thread_saves(tiny_config, tmp_path, monkeypatch, on_accelerators):
    """The save waits for what the caller does after it, so it would never end in the caller's own thread."""
    caller_went_on, write = threading.Event(), Checkpointer._write

    def write_later(self, *arguments):
        assert caller_went_on.wait(60)
        write(self, *arguments)

    monkeypatch.setattr(Checkpointer, "_write", write_later)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(create_train_state(tiny_config, (32, 32, 3)), Progress("checksum"))
        assert checkpointer.latest_step is None
        caller_went_on.set()
        checkpointer.wait()
        assert checkpointer.latest_step == 0


@pytest.mark.parametrize("then", ["wait", "save", "end"])
def test_what_a_thread_could_not_save_is_reported_next(tiny_config, tmp_path, on_accelerators, then):
    state = create_train_state(tiny_config, (32, 32, 3))
    bad = state.replace(step=np.int32(1), params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
    reported = pytest.raises(Diverged, match="NaN or infinite at step 1: the checkpoint of step 0 is kept")
    with reported, Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, Progress("checksum"))
        checkpointer.save(bad, Progress("checksum"))
        if then == "wait":
            checkpointer.wait()
        if then == "save":
            checkpointer.save(state, Progress("checksum"))
    assert steps_of(tmp_path) == {0}


@pytest.fixture
def full_disk(monkeypatch):
    """Make orbax's saves fail while the returned list is not empty. Each takes an entry of it."""
    left, save = [], ocp.CheckpointManager.save

    def fail_or_save(self, *arguments, **options):
        if left:
            raise OSError(left.pop())
        return save(self, *arguments, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail_or_save)
    return left


def test_after_a_failed_save_the_next_is_tried_before_the_error_is_raised(
    tiny_config, tmp_path, on_accelerators, full_disk
):
    state = create_train_state(tiny_config, (32, 32, 3))
    with Checkpointer(tmp_path) as checkpointer:
        full_disk.append("No space left on device")
        checkpointer.save(state, Progress("checksum"))
        checkpointer.save(state.replace(step=np.int32(1)), Progress("checksum"))
        assert steps_of(tmp_path) == {1}  # in the caller's own thread
        full_disk.extend(["No space left on device"] * 2)
        checkpointer.save(state.replace(step=np.int32(2)), Progress("checksum"))
        with pytest.raises(UserError, match=r"No space left on device.*: the checkpoint of step 1 is kept"):
            checkpointer.save(state.replace(step=np.int32(3)), Progress("checksum"))
    assert steps_of(tmp_path) == {1}


@pytest.mark.parametrize("end", ["stop", "nan"])
def test_how_a_run_ends_whose_last_save_failed_in_its_thread(
    tiny_config, tmp_path, monkeypatch, on_accelerators, full_disk, end
):
    """A stop saves again. A NaN is what the run is said to have failed of, and it is recorded."""
    tiny_config.checkpoint.every_steps = 2
    dispatch, steps = loop.dispatch, []

    def dispatch_noted(program, state, data, *inputs):
        result = dispatch(program, state, data, *inputs)
        steps.append(1)
        if len(steps) == 2:
            full_disk.append("No space left on device")
        if len(steps) == 4 and end == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if len(steps) == 3 and end == "nan":
            result[1]["loss"] = result[1]["loss"] * np.nan
        return result

    monkeypatch.setattr(loop, "dispatch", dispatch_noted)
    expected = {"stop": (Interrupted, "saved after step 4"), "nan": (Diverged, "became nan at step 3 .* no checkpoint")}
    error, message = expected[end]
    with pytest.raises(error, match=message):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert steps_of(tmp_path / "run") == ({4} if end == "stop" else set())
    assert (tmp_path / "run" / FAILURE_FILE).exists() == (end == "nan")


@pytest.mark.parametrize(
    ("backend", "processes", "in_thread"), [("cpu", 1, False), ("gpu", 1, True), ("tpu", 1, True), ("tpu", 2, False)]
)
def test_where_a_thread_writes(monkeypatch, tmp_path, backend, processes, in_thread):
    monkeypatch.setattr("jaxresnet.workdir.checkpoint.jax.default_backend", lambda: backend)
    monkeypatch.setattr("jaxresnet.workdir.checkpoint.jax.process_count", lambda: processes)
    assert _writes_in_background() == in_thread


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_a_checkpoint_is_saved_again_leaves_one_of_the_two(tiny_config, tmp_path, moment):
    """A step is saved twice if its evaluation was stopped. The kill comes before or after the second is in place."""
    state = create_train_state(tiny_config, (32, 32, 3))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, Progress("checksum", epoch=0))
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "0", tmp_path / "first")
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, Progress("checksum", epoch=1))
    assert steps_of(tmp_path) == {0}
    shutil.copytree(tmp_path / "first", folder / "0.replaced")
    if moment == "before":
        shutil.rmtree(folder / "0")
    with Checkpointer(tmp_path) as checkpointer:
        _, progress = checkpointer.restore_newest(state)
    assert progress.epoch == {"before": 0, "after": 1}[moment] and steps_of(tmp_path) == {0}


@pytest.mark.parametrize(("name", "gone"), [("last", 12), ("best", 12), ("best", 11)])
def test_readers_miss_the_checkpoint_that_the_run_recorded(tiny_config, tmp_path, name, gone):
    state = create_train_state(tiny_config, (32, 32, 3))
    best = {"epoch": 1, "step": 11, "loss": 2.0, "accuracy": 20.0}
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (10, 11, 12):
            checkpointer.save(state.replace(step=np.int32(step)), Progress("checksum", best=best))
    assert steps_of(tmp_path) == {11, 12}
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        step = {"last": 12, "best": 11}[name]
        assert int(checkpointer.restore_named(state, name)[0].step) == step
    shutil.rmtree(tmp_path / "checkpoints" / str(gone))
    with (
        Checkpointer(tmp_path, read_only=True) as checkpointer,
        pytest.raises(UserError, match=rf"its (last|best) checkpoint, of step {gone}, is gone; .* one that is there: "),
    ):
        checkpointer.restore_named(state, name)


def test_two_checkpoints_that_changed_places_are_taken_for_damaged(run, tmp_path, capsys):
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


def test_a_run_past_a_damaged_checkpoint_says_one_line_on_stderr(run, tmp_path, subprocess_environment):
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
