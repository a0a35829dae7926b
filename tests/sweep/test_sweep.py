"""Sweeps: planning, skipping, resuming, reporting and listing of runs."""

import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from jaxresnet.config import load_experiment
from jaxresnet.core.programs import _eval_program, _train_program, create_mesh, jit_steps
from jaxresnet.core.state import create_transform
from jaxresnet.sweep import __main__ as sweep
from jaxresnet.sweep import cost, plan
from jaxresnet.system.errors import Interrupted, UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.config import changed_fields, load_config, save_config
from jaxresnet.workdir.files import read_failure, read_summary, write_summary
from jaxresnet.workdir.log import read_metrics
from tests.conftest import REPOSITORY, arguments_of

SCHEDULER = load_experiment(REPOSITORY / "configs" / "scheduler.py")
FINAL = load_experiment(REPOSITORY / "configs" / "final.py")


@pytest.fixture
def small(tiny_npz):
    """Return overrides with which any arm trains in seconds."""
    return {
        "dataset.data_dir": str(tiny_npz),
        "num_epochs": 2,
        "batch_size": 30,
        "eval_batch_size": 20,
        "model.channels": (4, 8),
        "model.blocks": (1, 1),
        "model.pooling": "global",
    }


def folders(planned, workdir):
    return [str(job.workdir.relative_to(workdir)) for job in planned]


def test_all_arms_with_one_seed_then_with_the_next(tmp_path):
    planned = plan.plan_jobs(SCHEDULER, ["linear", "cosine"], 2, {"num_epochs": 3}, tmp_path)
    # Runs come in the table's own order, and the baseline has its own name.
    assert folders(planned, tmp_path) == [
        "baseline/seed0", "scheduler/linear/seed0", "baseline/seed1", "scheduler/linear/seed1",
    ]  # fmt: skip
    assert [job.config.seed for job in planned] == [0, 0, 1, 1]
    assert {job.config.num_epochs for job in planned} == {3}
    assert planned[1].config.schedule.name == "linear"


def test_seeds_count_from_the_configs_own(tmp_path):
    planned = plan.plan_jobs(FINAL, None, 2, {"seed": 5}, tmp_path)
    assert folders(planned, tmp_path) == ["final/seed5", "final/seed6"]


def test_tables_list_the_runs_that_they_share_by_the_same_command(tmp_path):
    tables = [load_experiment(REPOSITORY / "configs" / f"{name}.py") for name in ("scheduler", "pooling", "headline")]
    planned = [plan.plan_jobs(table, None, 2, {"num_epochs": 3}, tmp_path) for table in tables]
    assert planned[0][0].arguments == planned[1][0].arguments == planned[2][0].arguments
    assert planned[0][0].arguments[0] == f"--config={REPOSITORY / 'configs' / 'baseline.py'}"
    assert planned[0][1].arguments[0] == f"--config={REPOSITORY / 'configs' / 'scheduler.py'}:linear"


def test_arms_of_the_paper_alone(tmp_path):
    planned = plan.plan_jobs(SCHEDULER, ["paper", "warm_restarts"], 1, {}, tmp_path)
    assert [job.label.partition(",")[0] for job in planned] == [
        "cosine", "linear", "polynomial", "one_cycle", "warm_restarts",
    ]  # fmt: skip


def test_unknown_arms_get_the_list(tmp_path):
    with pytest.raises(UserError, match=r"there is no arm 'lin' in .*it has cosine, linear, polynomial, one_cycle"):
        plan.plan_jobs(SCHEDULER, ["cosine", "lin"], 1, {}, tmp_path)
    with pytest.raises(UserError, match="none: the file has no arms"):
        plan.plan_jobs(FINAL, ["final"], 1, {}, tmp_path)


def test_a_value_that_cannot_work_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="batch_size=0: expected a whole number of at least 1"):
        plan.plan_jobs(SCHEDULER, None, 1, {"batch_size": 0}, tmp_path)


def test_runs_share_programs_finished_ones_are_skipped_and_a_failure_stops_no_other(small, tmp_path, capsys):
    (tmp_path / "scheduler" / "linear" / "seed0").mkdir(parents=True)
    (tmp_path / "scheduler" / "linear" / "seed0" / "notes.txt").write_text("mine")
    planned = plan.plan_jobs(SCHEDULER, ["cosine", "linear", "one_cycle_fixed"], 2, small, tmp_path)
    _train_program.cache_clear()
    _eval_program.cache_clear()
    failures = sweep.run_jobs(planned)
    assert len(failures) == 1 and failures[0].startswith("linear, seed 0: ") and "holds other files" in failures[0]
    assert (tmp_path / "scheduler" / "linear" / "seed0" / "notes.txt").read_text() == "mine"
    done = [job for job in planned if read_summary(job.workdir)]
    assert len(done) == 5
    # Three arms and two seeds share one program for full batches, one for last batches and one for evaluation.
    compiled = jit_steps(create_transform(planned[0].config), create_mesh())
    assert (compiled.train._cache_size(), compiled.evaluate._cache_size()) == (2, 1)
    output = capsys.readouterr().out
    assert "== run 1 of 6: cosine, seed 0" in output and "sweep: 0% of the work, time left: measuring" in output
    assert re.search(r"epoch 2/2: .*; sweep: 17% of the work, about \S+ left\n", output)
    assert "== run 4 of 6: cosine, seed 1" in output and "failed: linear, seed 0:" in output
    assert "5 of 6 runs finished; sweep: 83% of the work, about" in output

    before = {job.workdir: (job.workdir / "metrics.jsonl").read_text() for job in done}
    (tmp_path / "scheduler" / "linear" / "seed0" / "notes.txt").unlink()
    assert sweep.run_jobs(planned) == []
    output = capsys.readouterr().out
    assert output.count("finished before") == 5 and "6 of 6 runs finished; sweep: 100% of the work\n" in output
    assert before == {job.workdir: (job.workdir / "metrics.jsonl").read_text() for job in done}


def test_any_other_exception_is_reported_and_the_rest_goes_on(small, tmp_path, monkeypatch, capsys):
    def train(config, *arguments):
        if config.schedule.name == "linear":
            raise MemoryError("no room\nfor this")
        return train_and_evaluate(config, *arguments)

    monkeypatch.setattr("jaxresnet.training.train_and_evaluate", train)
    planned = plan.plan_jobs(SCHEDULER, ["linear", "cosine"], 1, small, tmp_path)
    assert sweep.run_jobs(planned) == ["linear, seed 0: MemoryError: no room for this"]
    assert read_summary(tmp_path / "baseline" / "seed0") is not None


def test_an_interrupted_run_ends_the_sweep_and_is_resumed(small, tmp_path, monkeypatch):
    planned = plan.plan_jobs(SCHEDULER, ["cosine", "linear"], 1, small, tmp_path)
    left = [signal.SIGINT]  # a second one would end the process at once
    with monkeypatch.context() as patch:
        patch.setattr(
            "jaxresnet.system.terminal.ProgressDisplay.update",
            lambda *arguments: left and signal.raise_signal(left.pop()),
        )
        with pytest.raises(Interrupted) as interrupted:
            sweep.run_jobs(planned)
    assert interrupted.value.exit_status == 130
    assert read_metrics(planned[0].workdir) == [] and not planned[1].workdir.exists()
    assert sweep.run_jobs(planned) == []
    assert [line["step"] for line in read_metrics(planned[0].workdir)] == [6, 12]


def test_a_finished_run_with_another_config_is_no_finished_run(small, tmp_path):
    """After a short trial in the same folder, the full sweep must not count it as finished."""
    assert sweep.run_jobs(plan.plan_jobs(SCHEDULER, ["cosine"], 1, small, tmp_path)) == []
    planned = plan.plan_jobs(SCHEDULER, ["cosine"], 1, small | {"num_epochs": 3}, tmp_path)
    (failure,) = sweep.run_jobs(planned)
    assert "holds a run with another config: num_epochs=3 (there: 2)" in failure
    assert len(sweep.list_commands(planned)) == 1
    assert "refused" in cost.describe(planned, tmp_path)


def test_damaged_files_stop_no_other_run(small, tmp_path):
    planned = plan.plan_jobs(SCHEDULER, ["cosine", "linear"], 1, small, tmp_path)
    planned[0].workdir.mkdir(parents=True)
    save_config(planned[0].config, planned[0].workdir)
    (planned[0].workdir / "summary.json").write_text("{")
    (planned[0].workdir / "metrics.jsonl").write_text("{\n")
    (failure,) = sweep.run_jobs(planned)
    assert failure.startswith("cosine, seed 0: ") and "summary.json cannot be read" in failure
    assert read_summary(planned[1].workdir) is not None


def test_a_diverged_run_says_so_in_its_folder_until_it_has_finished(small, tmp_path):
    planned = plan.plan_jobs(SCHEDULER, ["linear"], 1, small | {"schedule.learning_rate": 1e20}, tmp_path)
    (failure,) = sweep.run_jobs(planned)
    reason = read_failure(planned[0].workdir)
    assert reason and reason in failure and "schedule.learning_rate" in reason
    write_summary({}, planned[0].workdir)
    assert read_failure(planned[0].workdir) is None


def test_two_different_runs_for_one_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="cosine, seed 0 and linear, seed 0 would both run in"):
        plan.plan_jobs(SCHEDULER, None, 1, {"name": "mine"}, tmp_path)


def test_no_arm_at_all_is_refused(tmp_path):
    quickstart = load_experiment(REPOSITORY / "configs" / "quickstart.py")
    for experiment, arms in ((SCHEDULER, []), (quickstart, ["paper"])):
        with pytest.raises(UserError, match="names no arm of"):
            plan.plan_jobs(experiment, arms, 1, {}, tmp_path)


def test_a_config_that_only_shares_anothers_name_is_listed_by_its_own_file(tmp_path):
    for name, change in (("baseline", ""), ("mine", "    config.num_epochs = 20\n")):
        text = "from configs import baseline\n\n\ndef get_config():\n    config = baseline.get_config()\n"
        (tmp_path / f"{name}.py").write_text(f"{text}{change}    return config\n")
    (job,) = plan.plan_jobs(load_experiment(tmp_path / "mine.py"), None, 1, {}, tmp_path)
    assert job.arguments[0] == f"--config={tmp_path / 'mine.py'}"


@pytest.fixture
def command(subprocess_environment):
    def run(*arguments, **keywords):
        line = [sys.executable, "-m", "jaxresnet.sweep", *arguments]
        return subprocess.run(
            line, env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, **keywords
        )

    return run


@pytest.mark.reliability
def test_the_commands_that_list_prints_are_the_runs_of_the_sweep(command, small, tmp_path, subprocess_environment):
    flags = ["--config=configs/scheduler.py", "--arms=one_cycle", "--seeds=2", f"--workdir={tmp_path}"]
    listed = command(*flags, "--list", *arguments_of(small))
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert len(lines) == 2 and not any(tmp_path.iterdir())
    words = shlex.split(lines[1])
    assert words[:3] == ["python", "-m", "jaxresnet.main"]
    done = subprocess.run(
        [sys.executable, *words[1:]], env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    job = plan.plan_jobs(SCHEDULER, ["one_cycle"], 2, small, tmp_path)[1]
    assert changed_fields(load_config(job.workdir), job.config) == {}
    # Finished runs are no longer listed.
    assert command(*flags, "--list", *arguments_of(small)).stdout.splitlines() == lines[:1]


def test_dry_run_tells_steps_and_time_and_runs_nothing(command, small, tmp_path):
    flags = ["--config=configs/scheduler.py", "--arms=cosine,linear", f"--workdir={tmp_path}", "--dry_run"]
    first = command(*flags, *arguments_of(small))
    assert first.returncode == 0, first.stderr
    assert not any(tmp_path.iterdir())
    assert [line.split()[2:5] for line in first.stdout.splitlines()[1:3]] == [["0", "new", "12"]] * 2
    assert first.stdout.count("not known") == 2 and "\n2 runs\n" in first.stdout

    sweep.run_jobs(plan.plan_jobs(SCHEDULER, ["cosine"], 1, small, tmp_path))
    second = command(*flags, *arguments_of(small)).stdout
    assert "finished" in second.splitlines()[1] and "new" in second.splitlines()[2]
    assert "not known" not in second and "2 runs, about" in second

    # The data of another run may be gone by now. Its summary is enough.
    config = load_config(tmp_path / "baseline" / "seed0")
    config.dataset.data_dir = str(tmp_path / "gone.npz")
    save_config(config, tmp_path / "baseline" / "seed0")
    assert command(*flags, *arguments_of(small)).returncode == 0


@pytest.mark.reliability
def test_ctrl_c_loses_nothing(command, small, tmp_path, subprocess_environment):
    """SIGINT while the first of two runs trains gives status 130. The same command then finishes both."""
    flags = ["--config=configs/scheduler.py", "--arms=cosine,linear", f"--workdir={tmp_path}"]
    flags += arguments_of(small | {"num_epochs": 8})
    line = [sys.executable, "-m", "jaxresnet.sweep", *flags]
    process = subprocess.Popen(
        line, env=subprocess_environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "baseline" / "seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped by SIGINT and saved after step" in errors and "Traceback" not in errors
    assert "== run 2 of 2" not in output

    resumed = command(*flags)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step" in resumed.stdout and "2 of 2 runs finished; sweep: 100%" in resumed.stdout
    steps = [line["step"] for line in read_metrics(tmp_path / "baseline" / "seed0")]
    assert steps == [6 * epoch for epoch in range(1, 9)]


@pytest.mark.reliability
def test_mistakes_are_answered_in_one_line(command, tmp_path):
    for arguments, message in (
        (["--config=configs/none.py"], "there is no file"),
        (["--config=configs/optimizer.py", "--arms=adamax"], "there is no arm 'adamax'"),
        (["--config=configs/optimizer.py", "--seeds=0"], "seeds"),
        (["--config=configs/optimizer.py", "--config.num_epoch=3"], "did you mean config.num_epochs?"),
    ):
        done = command(*arguments, f"--workdir={tmp_path}")
        assert done.returncode != 0 and message in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_experiments_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no config file"):
        load_experiment(tmp_path / "none.py")
    (tmp_path / "broken.py").write_text("def get_config(:")
    with pytest.raises(UserError, match="cannot be read as a config"):
        load_experiment(tmp_path / "broken.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="there is no get_config in it"):
        load_experiment(tmp_path / "empty.py")
