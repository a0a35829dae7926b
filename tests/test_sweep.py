"""Sweeps: planning, skipping, resuming, reporting and listing of runs."""

import shlex
import signal
import subprocess
import sys
import time

import pytest

from jaxresnet import sweep
from jaxresnet.config import changed_fields, load_config, save_config
from jaxresnet.core.programs import _eval_program, _train_program, create_mesh, jit_steps
from jaxresnet.core.state import create_transform
from jaxresnet.system.errors import Interrupted, UsageError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.folder import read_failure, read_summary, write_summary
from jaxresnet.workdir.log import read_metrics
from tests.conftest import REPOSITORY, arguments_of


@pytest.fixture
def small(tiny_npz):
    """Return overrides with which any arm trains in seconds."""
    return {
        "dataset.data_dir": str(tiny_npz),
        "num_epochs": "2",
        "batch_size": "30",
        "eval_batch_size": "20",
        "model.channels": "(4,8)",
        "model.blocks": "(1,1)",
        "model.pooling": "global",
    }


def folders(planned, workdir):
    return [str(job.workdir.relative_to(workdir)) for job in planned]


def test_plan_takes_all_arms_then_next_seed(tmp_path):
    planned = sweep.plan_jobs("scheduler", ["linear", "cosine"], 2, {"num_epochs": "3"}, tmp_path)
    # Runs come in the table's own order, and the baseline has its own name.
    assert folders(planned, tmp_path) == [
        "baseline/seed0", "scheduler/linear/seed0", "baseline/seed1", "scheduler/linear/seed1",
    ]  # fmt: skip
    assert [job.config.seed for job in planned] == [0, 0, 1, 1]
    assert {job.config.num_epochs for job in planned} == {3}
    assert planned[1].config.schedule.name == "linear"


def test_seeds_count_from_config_seed(tmp_path):
    assert folders(sweep.plan_jobs("final", None, 2, {"seed": "5"}, tmp_path), tmp_path) == [
        "final/seed5",
        "final/seed6",
    ]


@pytest.mark.parametrize("form", ["{}", "{}.py", "configs/{}.py"])
def test_commands_name_config_as_given(monkeypatch, form):
    monkeypatch.chdir(REPOSITORY)
    (job,) = sweep.plan_jobs(form.format("scheduler"), ["linear"], 1, {}, "runs")
    assert job.arguments == (
        f"--config={form.format('scheduler')}:linear",
        "--config.seed=0",
        "--workdir=runs/scheduler/linear/seed0",
    )


def test_plan_has_the_paths_of_its_runs(tmp_path, monkeypatch):
    """A run's process is given paths relative to the current folder, so the plan's config has them, too."""
    monkeypatch.chdir(tmp_path)
    (job,) = sweep.plan_jobs("quickstart", None, 1, {"init_from": str(tmp_path / "base")}, "runs")
    assert job.config.init_from == "base" and "--config.init_from=base" in job.arguments


def test_arms_of_paper_can_be_chosen(tmp_path):
    planned = sweep.plan_jobs("scheduler", ["paper", "warm_restarts"], 1, {}, tmp_path)
    assert [job.label.partition(",")[0] for job in planned] == [
        "cosine", "one_cycle", "warm_restarts",
    ]  # fmt: skip
    assert len(sweep.plan_jobs("scheduler:linear", None, 1, {}, tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "arms", "overrides", "message"),
    [
        (
            "scheduler",
            ["cosine", "lin"],
            {},
            r"--arms=cosine,lin: .*scheduler.py has cosine, linear, polynomial,",
        ),
        ("scheduler", [], {}, "--arms=: .*scheduler.py has cosine"),
        ("quickstart", ["paper"], {}, "--arms=paper: .*quickstart.py has no arms"),
        ("final", ["final"], {}, "--arms=final: .*final.py has no arms"),
        ("scheduler:linear", ["cosine"], {}, "--config=scheduler:linear names an arm already"),
        ("scheduler", None, {"batch_size": "0"}, "batch_size=0: expected a whole number from 1"),
        ("scheduler", None, {"name": "mine"}, "cosine, seed 0 and linear, seed 0 would both run in"),
    ],
)
def test_impossible_plans_are_refused(tmp_path, name, arms, overrides, message):
    with pytest.raises(UsageError, match=message):
        sweep.plan_jobs(name, arms, 1, overrides, tmp_path)


def test_one_config_takes_what_follows_its_colon(tmp_path):
    first, second = sweep.plan_jobs("fast:40", None, 2, {}, tmp_path)
    assert (first.config.num_epochs, first.arguments[0]) == (40, "--config=fast:40")
    assert second.workdir == tmp_path / "fast" / "seed1"


def test_runs_share_compiled_programs(small, tmp_path, capsys):
    (tmp_path / "scheduler" / "linear" / "seed0").mkdir(parents=True)
    (tmp_path / "scheduler" / "linear" / "seed0" / "notes.txt").write_text("mine")
    planned = sweep.plan_jobs("scheduler", ["cosine", "linear", "one_cycle_fixed"], 2, small, tmp_path)
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
    assert "== run 1 of 6: cosine, seed 0" in output and "time left: ... until a run has finished" in output
    assert "== run 2 of 6: linear, seed 0" in output and "s left" in output.partition("run 2 of 6")[2].splitlines()[0]
    assert "failed: linear, seed 0:" in output and "5 of 6 runs finished" in output

    before = {job.workdir: (job.workdir / "metrics.jsonl").read_text() for job in done}
    (tmp_path / "scheduler" / "linear" / "seed0" / "notes.txt").unlink()
    assert sweep.run_jobs(planned) == []
    output = capsys.readouterr().out
    assert output.count("finished before") == 5 and "6 of 6 runs finished" in output
    assert before == {job.workdir: (job.workdir / "metrics.jsonl").read_text() for job in done}


def test_failed_run_stops_no_other(small, tmp_path, monkeypatch):
    def train(config, *arguments):
        if config.schedule.name == "linear":
            raise MemoryError("no room\nfor this")
        return train_and_evaluate(config, *arguments)

    monkeypatch.setattr("jaxresnet.training.train_and_evaluate", train)
    planned = sweep.plan_jobs("scheduler", ["linear", "cosine"], 1, small, tmp_path)
    assert sweep.run_jobs(planned) == ["linear, seed 0: MemoryError: no room for this"]
    assert read_summary(tmp_path / "baseline" / "seed0") is not None


def test_interrupted_run_ends_sweep_and_resumes(small, tmp_path, monkeypatch):
    planned = sweep.plan_jobs("scheduler", ["cosine", "linear"], 1, small, tmp_path)
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


def test_other_config_of_finished_run_refused(small, tmp_path):
    """After a short trial in the same folder, the full sweep must not count it as finished."""
    assert sweep.run_jobs(sweep.plan_jobs("scheduler", ["cosine"], 1, small, tmp_path)) == []
    planned = sweep.plan_jobs("scheduler", ["cosine"], 1, small | {"num_epochs": "3"}, tmp_path)
    (failure,) = sweep.run_jobs(planned)
    assert "holds a run with another config: num_epochs=3 (there: 2)" in failure
    assert len(sweep.list_commands(planned)) == 1
    assert "refused" in sweep.describe(planned)


def test_diverged_run_says_so(small, tmp_path):
    planned = sweep.plan_jobs("scheduler", ["linear"], 1, small | {"schedule.learning_rate": "1e20"}, tmp_path)
    (failure,) = sweep.run_jobs(planned)
    reason = read_failure(planned[0].workdir)
    assert reason and reason in failure and "schedule.learning_rate" in reason
    write_summary({}, planned[0].workdir)
    assert read_failure(planned[0].workdir) is None


def test_time_left_follows_finished_runs(small, tmp_path):
    planned = sweep.plan_jobs("scheduler", ["cosine", "linear"], 1, small | {"num_epochs": "4"}, tmp_path)
    assert sweep.time_left(planned) == "time left: ... until a run has finished"
    planned[0].workdir.mkdir(parents=True)
    save_config(planned[0].config, planned[0].workdir)
    fields = ("best", "last", "evaluated_on", "images_per_second", "device", "versions")
    write_summary(dict.fromkeys(fields) | {"wall_seconds": 100.0}, planned[0].workdir)
    planned[1].workdir.mkdir(parents=True)
    (planned[1].workdir / "metrics.jsonl").write_text('{"epoch": 3, "step": 18}\n')
    assert sweep.time_left(planned) == "about 25s left"


@pytest.fixture
def command(subprocess_environment):
    def run(*arguments, **keywords):
        line = [sys.executable, "-m", "jaxresnet.sweep", *arguments]
        return subprocess.run(
            line, env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, **keywords
        )

    return run


@pytest.mark.reliability
def test_listed_commands_are_runs_of_sweep(command, small, tmp_path, subprocess_environment):
    flags = ["--config=configs/scheduler.py", "--arms=one_cycle", "--seeds=2", f"--workdir={tmp_path}"]
    listed = command(*flags, "--list", *arguments_of(small))
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert len(lines) == 2 and not any(tmp_path.iterdir())
    words = shlex.split(lines[1])
    assert words[:2] == ["jaxresnet", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *words], env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    job = sweep.plan_jobs("scheduler", ["one_cycle"], 2, small, tmp_path)[1]
    assert changed_fields(load_config(job.workdir), job.config) == {}
    # Finished runs are no longer listed.
    assert command(*flags, "--list", *arguments_of(small)).stdout.splitlines() == lines[:1]


def test_listed_commands_name_own_files(command, tmp_path):
    file = tmp_path / "mine.py"
    file.touch()
    done = command("--config=final", f"--with={file}", f"--workdir={tmp_path}", "--list")
    assert done.stdout.endswith(f" --with={file}\n"), done.stderr


def test_dry_run_needs_no_data(command, tmp_path):
    done = command("--config=scheduler", "--arms=cosine,linear", f"--workdir={tmp_path}", "--dry-run",
                   "--config.dataset.data_dir=/nowhere", "--config.num_epochs=7")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and not any(tmp_path.iterdir())
    assert [line.split()[2:5] for line in done.stdout.splitlines()[1:3]] == [["0", "new", "7"]] * 2
    assert "\n2 runs; time left: ..." in done.stdout


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
    assert "resuming after step" in resumed.stdout and "2 of 2 runs finished" in resumed.stdout
    steps = [line["step"] for line in read_metrics(tmp_path / "baseline" / "seed0")]
    assert steps == [6 * epoch for epoch in range(1, 9)]


@pytest.mark.reliability
def test_mistakes_are_answered_in_one_line(command, tmp_path):
    for arguments, message in (
        (["--config=configs/none.py"], "there is no file"),
        (["--config=configs/optimizer.py", "--arms=adamax"], "--arms=adamax: "),
        (["--config=configs/optimizer.py", "--config.num_epoch=3"], "did you mean config.num_epochs?"),
    ):
        done = command(*arguments, f"--workdir={tmp_path}")
        assert done.returncode == 2 and message in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
