"""Runs in folders and in files of JSON lines."""

import json

import pytest

from jaxresnet.config import changed_fields
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
        whole = [line for line in run.lines if line["epoch"] % 1 == 0]
        assert [line["epoch"] for line in twin.lines] == [line["epoch"] for line in whole]
        assert twin.lines[-1]["train_loss"] == pytest.approx(whole[-1]["train_loss"], rel=1e-5)
    assert not packed


def test_pack_keeps_runs_of_the_file(tmp_path):
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps({"path": "older", "config": {}, "metrics": []}) + "\n")
    assert pack_runs(REPOSITORY / "results" / "runs" / "cpu", file) == 2


def test_damaged_packed_file_is_named(tmp_path, capsys):
    (tmp_path / "runs.jsonl").write_text('{"path": "a", "config": {}, "metrics": []}\n')
    assert read_runs(tmp_path) == [] and "skipped" in capsys.readouterr().err
    (tmp_path / "runs.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="not a file of packed runs"):
        read_runs(tmp_path)
