"""Runs in folders and in files of JSON lines."""

import itertools
import json
import shutil
import subprocess
import sys

import pytest

from jaxresnet.config import changed_fields, flatten, load_config
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.runs import read_runs
from scripts.pack_runs import pack_runs
from tests.conftest import REPOSITORY


def test_packed_runs_equal_their_folders(tmp_path):
    folder, file = REPOSITORY / "results" / "runs", tmp_path / "runs.jsonl"
    assert pack_runs(folder, file) == 7
    first = file.read_bytes()
    assert pack_runs(folder, file) == 7 and file.read_bytes() == first

    packed = {run.path.relative_to(tmp_path / "runs"): run for run in read_runs(tmp_path)}
    for run in read_runs(folder):
        twin = packed.pop(run.path.relative_to(folder))
        assert twin.summary == run.summary and not changed_fields(twin.config, run.config)
        whole = [line for line in run.lines if "seconds" in line]
        assert [line["epoch"] for line in twin.lines] == [line["epoch"] for line in whole]
        assert twin.lines[-1]["train_loss"] == pytest.approx(whole[-1]["train_loss"], rel=1e-5)
    assert not packed


def test_packed_runs_keep_evaluated_epochs_and_every_tenth(tmp_path):
    run = tmp_path / "runs" / "cpu"
    shutil.copytree(REPOSITORY / "results" / "runs" / "cpu", run)
    (run / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"epoch": i / 2, "step": i} | ({"seconds": 1} if i == 50 else {})) + "\n" for i in range(1, 51)
        )
    )
    pack_runs(tmp_path / "runs", tmp_path / "runs.jsonl")
    (packed,) = read_runs(tmp_path / "runs.jsonl")
    assert [line["epoch"] for line in packed.lines] == [10, 20, 25]


def test_pack_keeps_runs_of_the_file(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps({"path": "older", "config": {}, "metrics": []}) + "\n")
    assert pack_runs(REPOSITORY / "results" / "runs" / "cpu", file) == 2


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("runs.jsonl", '{"path": "a", "config": {}, "metrics": []}', "runs/a cannot be read"),
        ("answers.jsonl", '{"image": "cat.png"}', "is not a file of packed runs"),
        ("summary.json", '{"best": {}, "last": {"accuracy": NaN}, "device": ""}', "its accuracy is not a number"),
        ("summary.json", '{"version": 3}', "lacks fields"),
        ("config.json", "[1]", "config.json cannot be read"),
    ],
)
def test_damaged_runs_are_skipped_by_name(tmp_path, capsys, name, content, problem):
    for folder in ("good", "bad"):
        shutil.copytree(REPOSITORY / "results" / "runs" / "cpu", tmp_path / folder)
    (tmp_path / "bad" / name).write_text(content + "\n")
    left = [run.path.name for run in read_runs(tmp_path)]
    assert left == (["bad", "good"] if name.endswith(".jsonl") else ["good"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("skipped: ") and problem in line


def unpack(count, folder):
    """Write run directories: those of the small study, again and again with other seeds."""
    kept = [json.loads(line) for line in (REPOSITORY / "results" / "small.jsonl").read_text().splitlines()]
    kept = [line for line in kept if line["path"].endswith("/seed0")]
    seeds = ((seed, line) for seed in itertools.count() for line in kept)
    for seed, line in itertools.islice(seeds, count):
        path = folder / line["path"].replace("seed0", f"seed{seed}")
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(line["config"] | {"seed": seed}))
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in line["metrics"]))
        if line["summary"]:
            (path / "summary.json").write_text(json.dumps(line["summary"]))


def test_many_runs_keep_their_configs(tmp_path):
    unpack(300, tmp_path)
    for run in read_runs(tmp_path):
        stored = flatten(json.loads((run.path / "config.json").read_text()))
        restored = flatten(json.loads(json.dumps(run.config.to_dict())))
        assert all(restored[name] == stored[name] for name in stored.keys() & restored.keys())
        assert run.config.is_locked and run.config.seed == int(run.path.name.removeprefix("seed"))


@pytest.mark.parametrize("seed", [-1, 1.5, "one", None])
def test_stored_seed_is_checked(tmp_path, seed):
    unpack(1, tmp_path)
    (file,) = tmp_path.rglob("config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": seed}))
    with pytest.raises(UserError, match="seed="):
        load_config(file.parent)


@pytest.mark.thorough
def test_report_on_thousands_of_runs(tmp_path):
    """Report on 10,000 runs in 1 GB, and in 30 s of processor time, because 10 to 19 s were measured."""
    unpack(10_000, tmp_path / "runs")
    program = (
        "import resource, sys\n"
        "from jaxresnet.report.__main__ import main\n"
        "main(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss)\n"
    )
    line = [sys.executable, "-c", program, f"--workdir={tmp_path}/runs", f"--out={tmp_path}/report"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seconds, kilobytes = map(float, done.stdout.splitlines()[-1].split())
    assert seconds < 30 and kilobytes < 1e6
