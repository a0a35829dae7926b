"""Runs of earlier versions, whose config.json lacks fields that were added since."""

import json

import pytest

from configs import default, quickstart
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir import config as workdir_config
from jaxresnet.workdir.config import check_same_training, flatten, load_config, save_config
from jaxresnet.workdir.folder import CONFIG_FILE
from jaxresnet.workdir.runs import read_runs
from tests.conftest import REPOSITORY

OLDEST = REPOSITORY / "results" / "runs" / "cpu" / CONFIG_FILE


def without(field, workdir):
    """Remove a field from config.json."""
    path = workdir / CONFIG_FILE
    fields = json.loads(path.read_text())
    *section, leaf = field.split(".")
    del (fields[section[0]] if section else fields)[leaf]
    path.write_text(json.dumps(fields))


def test_every_field_is_in_the_oldest_run_or_has_a_value_for_it():
    there = flatten(json.loads(OLDEST.read_text()))
    assert flatten(default.get_config().to_dict()).keys() <= there.keys() | workdir_config._BEFORE.keys()


@pytest.mark.parametrize("field", workdir_config._BEFORE)
def test_a_field_that_is_missing_has_the_default(tmp_path, field):
    config = quickstart.get_config()
    if field == "name":
        config.name = "default"
    save_config(config, tmp_path)
    without(field, tmp_path)
    assert flatten(load_config(tmp_path).to_dict()).keys() == flatten(config.to_dict()).keys()
    check_same_training(config, tmp_path)


def test_other_fields_must_be_there(tmp_path):
    save_config(quickstart.get_config(), tmp_path)
    without("batch_size", tmp_path)
    with pytest.raises(UserError, match="batch_size is missing"):
        load_config(tmp_path)


@pytest.mark.reliability
def test_an_older_run_is_resumed_and_reported(tiny_config, tmp_path):
    workdir = tmp_path / "runs" / "run"
    train_and_evaluate(tiny_config, str(workdir))
    for field in workdir_config._BEFORE:
        if field != "name":
            without(field, workdir)
    (workdir / "summary.json").unlink()
    assert train_and_evaluate(tiny_config, str(workdir))["last"]["epoch"] == tiny_config.num_epochs
    (run,) = read_runs(tmp_path / "runs")
    assert run.summary["last"]["epoch"] == tiny_config.num_epochs
