"""Whole runs: their results, how they resume, and what they refuse."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from jaxresnet import training
from jaxresnet.config import load_config
from jaxresnet.core import programs
from jaxresnet.core.state import create_train_state
from jaxresnet.evaluate import evaluate_run
from jaxresnet.system.errors import Interrupted, UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.folder import METRICS_FILE, read_summary
from jaxresnet.workdir.log import is_epoch_line, read_metrics
from scripts.same_run import checkpointed, differences, read_outcome
from tests.conftest import REPOSITORY, make_tiny_config


def assert_same_run(config, actual, expected):
    """Compare parameters, statistics, momenta, metrics, confusion and summary bit for bit, without timings."""
    assert differences(read_outcome(config, actual), read_outcome(config, expected)) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_npz):
    """Return config, workdir and summary of an uninterrupted run."""
    config = make_tiny_config(tiny_npz)
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return config, workdir, train_and_evaluate(config, str(workdir))


def stop_after(monkeypatch, number, action):
    """Call ``action`` right after training dispatch ``number``, counted from 1."""
    calls = 0
    jit_steps = programs.jit_steps

    def jit_and_count(*arguments):
        compiled = jit_steps(*arguments)

        def train(*inputs):
            nonlocal calls
            result = compiled.train(*inputs)
            calls += 1
            if calls == number:
                action()
            return result

        return programs.Steps(train=train, evaluate=compiled.evaluate)

    monkeypatch.setattr("jaxresnet.training.jit_steps", jit_and_count)


# Results of a run.


def test_metrics(finished):
    _, workdir, _ = finished
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert [line["epoch"] for line in lines] == [2 / 6, 4 / 6, 1, 8 / 6, 10 / 6, 2]
    assert ["test_accuracy" in line for line in lines] == [False, False, True] * 2
    assert lines[0]["learning_rate"] == pytest.approx(0.1) and lines[5]["learning_rate"] < 0.1
    assert all(0 <= line["train_accuracy"] <= 100 for line in lines)


def test_summary(finished):
    config, workdir, summary = finished
    assert json.loads((workdir / "summary.json").read_text()) == summary
    epoch_lines = [line for line in read_metrics(workdir) if "test_accuracy" in line]
    best = max(epoch_lines, key=lambda line: line["test_accuracy"])
    assert summary["best"]["epoch"] == best["epoch"] and summary["best"]["accuracy"] == best["test_accuracy"]
    assert summary["best"]["selected_on"] == "test"
    assert summary["last"]["accuracy"] == epoch_lines[-1]["test_accuracy"]
    assert summary["wall_seconds"] > 0 and summary["images_per_second"] > 0
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["platform"] == "cpu" and summary["device"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    assert (summary["git_commit"] or "").removesuffix("-dirty") == commit
    assert load_config(workdir).model.channels == (4, 8) == config.model.channels


def test_tensorboard_holds_the_metrics(finished):
    _, workdir, _ = finished
    (file,) = (workdir / "tensorboard").iterdir()
    content, scalars = file.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")  # then 4 bytes of checksum, the event, and its checksum
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            scalars[value.tag, event.step] = value.simple_value
    for line in read_metrics(workdir):
        assert scalars["train_loss", line["step"]] == pytest.approx(line["train_loss"])
    assert scalars["test_accuracy", 12] == pytest.approx(read_metrics(workdir)[-1]["test_accuracy"])


def test_evaluate_repeats_the_logged_scores(finished):
    _, workdir, summary = finished
    for name in ("last", "best"):
        step, scores = evaluate_run(str(workdir), name)
        sums = scores.sums
        assert step == summary[name]["step"]
        assert sums.means("test")["test_accuracy"] == summary[name]["accuracy"]
        assert sums.means("test")["test_loss"] == summary[name]["loss"]
    with pytest.raises(UserError, match="expected best, last, or one of"):
        evaluate_run(str(workdir), "7")


def test_finished_run_is_not_trained_again(finished, monkeypatch, capsys):
    config, workdir, summary = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    monkeypatch.delattr("jaxresnet.training.files.load_data")
    assert train_and_evaluate(config, str(workdir)) == summary
    assert "finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


def test_validation_run_scores_test_once(tiny_config, tmp_path, monkeypatch):
    tiny_config.dataset.validation_size = 40
    tiny_config.checkpoint.keep = 1
    scored = []
    original = training.evaluate

    def count(compiled, state, data, size, *rest):
        scored.append(size)
        return original(compiled, state, data, size, *rest)

    monkeypatch.setattr(training, "evaluate", count)
    summary = train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert scored == [40, 40, 50]  # validation after each epoch, then the 50 test images
    assert summary["best"]["selected_on"] == summary["evaluated_on"] == "validation"
    lines = [line for line in read_metrics(tmp_path / "run") if "validation_accuracy" in line]
    assert len(lines) == 2 and not any("test_accuracy" in line for line in lines)
    assert lines[0]["step"] == 5  # 125 images in batches of 30
    assert summary["test"]["epoch"] == summary["best"]["epoch"]
    sums = evaluate_run(str(tmp_path / "run"), "best").scores.sums
    assert summary["test"]["test_accuracy"] == sums.means("test")["test_accuracy"]


def test_bfloat16_keeps_parameters_in_float32(tiny_config, tmp_path, finished):
    tiny_config.dtype = "bfloat16"
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    arrays, _ = checkpointed(tiny_config, tmp_path / "run")
    assert {array.dtype for array in arrays.values()} == {np.dtype("int32"), np.dtype("float32")}
    losses, exact = ([line["train_loss"] for line in read_metrics(run)] for run in (tmp_path / "run", finished[1]))
    np.testing.assert_allclose(losses, exact, rtol=0.1)
    assert losses != exact


# Resuming.


@pytest.mark.parametrize("dispatch", [1, 3, 6, 9])
def test_stopped_run_resumes_exactly(finished, tmp_path, monkeypatch, dispatch):
    """The signal comes within the first and second epoch, and at an epoch's end before its evaluation."""
    config, expected, _ = finished
    with monkeypatch.context() as patch:
        stop_after(patch, dispatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=f"SIGTERM and saved after step {dispatch};") as interrupted:
            train_and_evaluate(config, str(tmp_path / "run"))
    assert interrupted.value.exit_status == 128 + signal.SIGTERM
    train_and_evaluate(config, str(tmp_path / "run"))
    assert_same_run(config, tmp_path / "run", expected)


def test_run_stopped_evaluating_resumes_exactly(finished, tmp_path, monkeypatch):
    config, expected, _ = finished
    original = training.evaluate

    def evaluate_and_stop(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", evaluate_and_stop)
        with pytest.raises(Interrupted, match="after step 6;"):
            train_and_evaluate(config, str(tmp_path / "run"))
    assert "test_accuracy" not in read_metrics(tmp_path / "run")[-1]
    train_and_evaluate(config, str(tmp_path / "run"))
    assert_same_run(config, tmp_path / "run", expected)


def test_only_indices_rates_and_metrics_move(tiny_config, tmp_path, monkeypatch):
    """The transfer guard is on in training and evaluation. If anything else moves to the devices, the step fails."""
    compiled = training.jit_steps

    def jit_careless_steps(*arguments):
        steps = compiled(*arguments)
        return dataclasses.replace(
            steps, train=lambda state, data, *rest: steps.train(state, jax.tree.map(np.asarray, data), *rest)
        )

    guards = []
    guard = jax.transfer_guard
    monkeypatch.setattr(jax, "transfer_guard", lambda level: guards.append(level) or guard(level))
    train_and_evaluate(tiny_config, str(tmp_path / "careful"))
    assert len(guards) >= 4 and set(guards) == {"disallow"}  # training and evaluation of two epochs

    monkeypatch.setattr(training, "jit_steps", jit_careless_steps)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train_and_evaluate(tiny_config, str(tmp_path / "careless"))


@pytest.mark.reliability
def test_killed_process_resumes_exactly(finished, tmp_path, subprocess_environment):
    """SIGKILL comes after lines that no checkpoint covers yet. The last line is left half-written."""
    config, expected, _ = finished
    workdir = tmp_path / "run"
    script = tmp_path / "run_tiny.py"
    script.write_text(
        "import sys\n"
        "from tests.conftest import make_tiny_config\n"
        "from jaxresnet.training import train_and_evaluate\n"
        "config = make_tiny_config(sys.argv[1])\n"
        "config.checkpoint.every_steps = 7\n"
        "train_and_evaluate(config, sys.argv[2])\n"
    )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.checkpoint.every_steps = 7
    command = [sys.executable, str(script), config.dataset.data_dir, str(workdir)]
    process = subprocess.Popen(command, env=subprocess_environment, cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and not any(line["step"] >= 8 for line in read_metrics(workdir)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert not (workdir / "summary.json").exists(), "the run ended before it could be killed"
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    train_and_evaluate(config, str(workdir))
    assert_same_run(config, workdir, expected)


@pytest.mark.parametrize("left", ["cut short", "gone"])
@pytest.mark.parametrize("log_every_steps", [0, 2])
def test_lost_epoch_line_is_restored(tiny_config, tmp_path, left, log_every_steps):
    """If only the summary is missing, the run takes no step that could write the line again."""
    tiny_config.log_every_steps = log_every_steps
    workdir = tmp_path / "run"
    expected = train_and_evaluate(tiny_config, str(workdir))
    lines = read_metrics(workdir)
    (workdir / "summary.json").unlink()
    metrics = workdir / METRICS_FILE
    if left == "gone":
        metrics.unlink()
    else:
        metrics.write_bytes(metrics.read_bytes()[:-9])
    assert train_and_evaluate(tiny_config, str(workdir)) == expected
    assert read_metrics(workdir) == (lines[-1:] if left == "gone" else lines)


def test_closed_stdout_is_not_full_disk(tiny_config, tmp_path, monkeypatch):
    def say(display, text):
        raise BrokenPipeError

    monkeypatch.setattr("jaxresnet.system.terminal.ProgressDisplay.say", say)
    with pytest.raises(BrokenPipeError):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))


def test_checkpoints_are_the_latest_few(tiny_config, tmp_path):
    tiny_config.num_epochs = 3
    tiny_config.checkpoint.every_steps = 1
    tiny_config.checkpoint.keep = 2
    summary = train_and_evaluate(tiny_config, str(tmp_path / "run"))
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {17, 18}
    assert evaluate_run(str(tmp_path / "run"), "best")[0] == summary["best"]["step"]


def test_relative_workdirs_work(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_config.num_epochs = 1
    train_and_evaluate(tiny_config, "runs/here")
    assert evaluate_run("runs/here", "last")[0] == 6


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", 1, r"seed=1 \(there: 0\)"),
        ("schedule.learning_rate", 0.2, r"schedule.learning_rate=0.2 \(there: 0.1\)"),
        ("model.channels", (4, 9), r"model.channels=\[4, 9\] \(there: \(4, 8\)\)"),
    ],
)
def test_other_config_is_refused_with_difference(finished, field, value, message):
    config, workdir, _ = finished
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        train_and_evaluate(changed, str(workdir))


def test_fields_outside_training_may_differ(finished):
    config, workdir, summary = finished
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({"eval_batch_size": 7, "checkpoint.keep": 9, "dataset.data_dir": "elsewhere"})
    assert train_and_evaluate(changed, str(workdir)) == summary


def test_other_data_are_refused(tiny_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted):
            train_and_evaluate(tiny_config, str(tmp_path / "run"))
    arrays = dict(np.load(tiny_config.dataset.data_dir))
    arrays["train_labels"][0] += 1
    np.savez(tmp_path / "other.npz", **{**arrays, "train_labels": arrays["train_labels"] % 10})
    tiny_config.dataset.data_dir = str(tmp_path / "other.npz")
    with pytest.raises(UserError, match="a run on other data"):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))


# Bad input.


def test_small_images_need_global_pooling(tiny_config, tmp_path):
    tiny_config.augment.small_images = ((16, 0.5),)
    tiny_config.model.pooling = "5"
    with pytest.raises(UserError, match=r"give model\.pooling=global"):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_fast_recipe_resumes_exactly(tiny_config, tmp_path, monkeypatch):
    """The run stops in the epoch of small images, with all features of the fast recipe, averages and a trapezoid."""
    tiny_config.augment.small_images = ((16, 0.5),)
    tiny_config.augment.update(alternating_flip=True, cutout_size=8)
    tiny_config.label_smoothing = 0.1
    tiny_config.optimizer.name = "muon"
    tiny_config.ema_decay = 0.7
    tiny_config.schedule.update(name="constant", step_per="step", warmup_epochs=0.5, decay_epochs=1.0)
    train_and_evaluate(tiny_config, str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="after step 3;"):
            train_and_evaluate(tiny_config, str(tmp_path / "stopped"))
    train_and_evaluate(tiny_config, str(tmp_path / "stopped"))
    assert_same_run(tiny_config, tmp_path / "stopped", tmp_path / "whole")
    last = read_summary(tmp_path / "whole")["last"]
    line = read_metrics(tmp_path / "whole")[-1]
    assert line["test_loss"] != line["raw_test_loss"] and last["raw_accuracy"] == line["raw_test_accuracy"]
    assert evaluate_run(str(tmp_path / "whole"), "last").scores.sums.means("test")["test_accuracy"] == last["accuracy"]


def test_rare_evaluation_changes_no_training(tiny_config, tmp_path, monkeypatch):
    """The last epoch is always evaluated. A run that stops between evaluations resumes bit for bit."""
    tiny_config.num_epochs = 5
    every = tmp_path / "every"
    train_and_evaluate(tiny_config, str(every))
    tiny_config.eval_every_epochs = 3
    train_and_evaluate(tiny_config, str(tmp_path / "some"))
    lines = read_metrics(tmp_path / "some")
    assert [line["epoch"] for line in lines if is_epoch_line(line)] == [3, 5]
    assert {line["epoch"] for line in lines} >= {1, 2, 3, 4, 5}
    trained = [(line["epoch"], line["train_loss"]) for line in lines]
    assert trained == [(line["epoch"], line["train_loss"]) for line in read_metrics(every)]

    steps_per_epoch = max(line["step"] for line in lines) // 5
    with monkeypatch.context() as patch:
        stop_after(patch, 3 * steps_per_epoch + 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="same command"):
            train_and_evaluate(tiny_config, str(tmp_path / "stopped"))
    train_and_evaluate(tiny_config, str(tmp_path / "stopped"))
    assert_same_run(tiny_config, tmp_path / "stopped", tmp_path / "some")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_epochs", 0, "num_epochs=0: expected a whole number from 1 to 2,147,483,647"),
        ("batch_size", 0, "batch_size=0"),
        ("batch_size", 166, "larger than the 165 training images"),
        ("eval_batch_size", -1, "eval_batch_size=-1"),
        ("steps_per_dispatch", 0, "steps_per_dispatch=0"),
        ("dtype", "float16", "one of float32, bfloat16"),
        ("seed", -1, "seed=-1"),
        ("augment.std", (0.0, 1.0, 1.0), "augment.std"),
        ("augment.mean", (0.0,), "expected 3 numbers from 0 to 1"),
        ("augment.crop_padding", -1, "augment.crop_padding=-1"),
        ("model.pooling", "maximum", '"global" or the side of a window'),
        ("model.pooling", "20", "larger than the 16x16 map"),
        ("model.num_classes", 4, "labels go from 0 to 9: expected 0 to 3"),
        ("optimizer.name", "sgdd", "expected one of adadelta, adagrad"),
        ("schedule.name", "cosin", "expected one of constant, cosine"),
        ("schedule.learning_rate", -0.1, "schedule.learning_rate=-0.1"),
        ("dataset.validation_size", 165, "dataset.validation_size=165"),
        ("model.channels", ("a", "b"), "model.channels"),
        ("model.blocks", (1.5, 1), "model.blocks"),
        ("model.pooling", "²", "model.pooling='²'"),
        ("augment.std", (float("inf"), 1.0, 1.0), "augment.std"),
        ("optimizer.momentum", -1.0, "optimizer.momentum=-1.0"),
        ("optimizer.weight_decay", -1.0, "optimizer.weight_decay=-1.0"),
        ("augment.small_images", ((33, 0.5),), "from 1 to 32 pixels"),
        ("augment.small_images", ((16, 0.5), (24, 0.5)), "a rising share"),
        ("augment.small_images", ((16, 1.5),), "in (0, 1]"),
        ("augment.small_images", (16, 0.5), "pairs of a side"),
        ("label_smoothing", 1.0, "label_smoothing=1.0"),
        ("eval_every_epochs", 0, "eval_every_epochs=0"),
        ("checkpoint.keep", 0, "checkpoint.keep=0"),
        ("checkpoint.every_minutes", 0.0, "checkpoint.every_minutes=0.0"),
    ],
)
def test_impossible_config_is_refused_in_one_line(tiny_config, tmp_path, field, value, message):
    tiny_config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as error:
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_file_or_foreign_workdir_is_refused(tiny_config, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for workdir, error, message in (
        (file, UserError, "is a file"),
        (tmp_path, UserError, "holds other files"),
        (file / "below", NotADirectoryError, "below"),
    ):
        with pytest.raises(error, match=message):
            train_and_evaluate(tiny_config, str(workdir))
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("file", ["summary.json", "metrics.jsonl"])
def test_damaged_run_files_are_named(finished, tmp_path, file):
    """Damaged checkpoints are tested in ``test_damaged_checkpoints.py``."""
    config, finished_workdir, _ = finished
    workdir = tmp_path / "run"
    shutil.copytree(finished_workdir, workdir)
    if file != "summary.json":
        (workdir / "summary.json").unlink()
    (workdir / file).write_bytes(b"{damaged}\n")
    with pytest.raises(UserError, match="move it away"):
        train_and_evaluate(config, str(workdir))


def test_stop_after_save_keeps_checkpoint(tiny_config, tmp_path, monkeypatch):
    tiny_config.checkpoint.every_steps = 1
    tiny_config.checkpoint.keep = 1
    monkeypatch.setattr("jaxresnet.training.steps_per_dispatch", lambda configured: 1)
    stop_after(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="after step 2;"):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert evaluate_run(str(tmp_path / "run"), "last")[0] == 2


@pytest.mark.skipif(not pathlib.Path("/proc/sys").exists(), reason="needs a folder that not even root can write")
def test_unwritable_workdir_is_refused(tiny_config):
    with pytest.raises(OSError, match="/proc/sys/run"):
        train_and_evaluate(tiny_config, "/proc/sys/run")


def test_damaged_config_is_refused(finished, tmp_path):
    config, _, _ = finished
    (tmp_path / "config.json").write_text('{"seed": 0,')
    with pytest.raises(UserError, match="cannot be read"):
        train_and_evaluate(config, str(tmp_path))


def test_divergence_keeps_last_good_checkpoint(tiny_config, tmp_path):
    tiny_config.schedule.learning_rate = 1e20
    tiny_config.checkpoint.every_steps = 1
    with pytest.raises(UserError) as error:
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
    message = str(error.value)
    assert "NaN" in message or "the loss became nan" in message or "the loss became inf" in message
    assert "at step" in message and "lower schedule.learning_rate" in message
    folder = tmp_path / "run" / "checkpoints"
    kept = sorted(int(path.name) for path in folder.iterdir()) if folder.exists() else []
    if kept:
        assert f"the checkpoint of step {kept[-1]} is kept" in message
        state = create_train_state(tiny_config, (32, 32, 3))
        with Checkpointer(tmp_path / "run", read_only=True) as checkpointer:
            state, _ = checkpointer.restore(state, kept[-1])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables))
    else:
        assert "no checkpoint was saved yet" in message


def return_nan_at(monkeypatch, step, steps_per_dispatch):
    """Make the loss of a step NaN. Return the list of the steps before each dispatch, which grows."""
    jit_steps, dispatched = programs.jit_steps, []

    def jit_with_nan(*arguments):
        compiled = jit_steps(*arguments)

        def train(state, data, indices, hyperparams):
            before = int(state.step)
            dispatched.append(before)
            state, metrics = compiled.train(state, data, indices, hyperparams)
            loss = np.array(metrics["loss"])
            if before < step <= before + len(indices):
                loss[step - before - 1] = np.nan
            return state, {**metrics, "loss": loss}

        return programs.Steps(train=train, evaluate=compiled.evaluate)

    monkeypatch.setattr("jaxresnet.training.jit_steps", jit_with_nan)
    monkeypatch.setattr("jaxresnet.training.steps_per_dispatch", lambda configured: steps_per_dispatch)
    return dispatched


def test_nan_within_dispatch_names_its_step(tiny_config, tmp_path, monkeypatch):
    """The NaN appears in the third of five steps that the device reports together."""
    return_nan_at(monkeypatch, step=3, steps_per_dispatch=5)
    with pytest.raises(UserError, match=r"the loss became nan at step 3 \(epoch 1\), and no checkpoint was saved yet"):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("every_steps", "kept", "dispatched"),
    [
        (0, "no checkpoint was saved yet", [0, 1, 2, 3]),
        (2, "the checkpoint of step 2 is kept", [0, 1, 2, 3]),
        (3, "no checkpoint was saved yet", [0, 1, 2]),
    ],
)
def test_nan_is_never_saved(tiny_config, tmp_path, monkeypatch, every_steps, kept, dispatched):
    """The NaN appears at step 3. The fourth step begins before it is found, unless a save is due first."""
    tiny_config.checkpoint.every_steps = every_steps
    actual = return_nan_at(monkeypatch, step=3, steps_per_dispatch=1)
    with pytest.raises(UserError, match=rf"the loss became nan at step 3 \(epoch 1\), and {kept}"):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert actual == dispatched


def test_dispatch_precedes_reading_of_metrics(tiny_config, tmp_path, monkeypatch):
    events, (dispatch, record) = [], (training.dispatch, training._Trainer._record)

    def dispatch_noted(program, state, data, *inputs):
        events.append("dispatch")
        return dispatch(program, state, data, *inputs)

    def record_noted(self, dispatched):
        if dispatched:
            events.append("read")
        return record(self, dispatched)

    monkeypatch.setattr(training, "dispatch", dispatch_noted)
    monkeypatch.setattr(training._Trainer, "_record", record_noted)
    tiny_config.num_epochs = 1
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    steps_per_epoch = len(events) // 2
    assert events == ["dispatch", *["dispatch", "read"] * (steps_per_epoch - 1), "read"]
