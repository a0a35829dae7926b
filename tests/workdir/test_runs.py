"""Runs in folders and in files of JSON lines."""

import json
import shutil

import pytest

from jaxresnet.config import changed_fields
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
        whole = [line for line in run.lines if line["epoch"] % 1 == 0]
        assert [line["epoch"] for line in twin.lines] == [line["epoch"] for line in whole]
        assert twin.lines[-1]["train_loss"] == pytest.approx(whole[-1]["train_loss"], rel=1e-5)
    assert not packed


def test_pack_keeps_runs_of_the_file(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps({"path": "older", "config": {}, "metrics": []}) + "\n")
    assert pack_runs(REPOSITORY / "results" / "runs" / "cpu", file) == 2


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("runs.jsonl", '{"path": "a", "config": {}, "metrics": []}', "runs/a cannot be read"),
        ("answers.jsonl", '{"image": "cat.png"}', "is not a file of packed runs"),
        ("summary.json", '{"last": {"accuracy": NaN}}', "its accuracy is not a number"),
        ("summary.json", '{"version": 3}', "cannot be read ('last')"),
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
