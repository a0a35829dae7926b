"""Runs of earlier versions, whose config.json lacks fields that were added since."""

import json

import pytest

from configs import quickstart
from jaxresnet.config import CONFIG_FILE, check_same_training, load_config, save_config
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.runs import read_runs

# The fields that the oldest run in this project's history lacks.
ADDED = (
    *("augment.small_images", "eval_every_epochs", "label_smoothing", "model.skips", "paper.epoch", "tracker"),
    *("schedule.end_factor", "schedule.power", "schedule.restarts", "schedule.start_factor"),
    *("schedule.total_epochs", "schedule.warmup_epochs"),
)


def change(workdir, *missing, **added):
    """Remove fields from config.json, by dotted name, and add others."""
    path = workdir / CONFIG_FILE
    fields = json.loads(path.read_text())
    for field in missing:
        *section, leaf = field.split(".")
        del (fields[section[0]] if section else fields)[leaf]
    path.write_text(json.dumps(fields | added))


def test_missing_fields_have_their_default(tmp_path):
    config = quickstart.get_config()
    save_config(config, tmp_path)
    change(tmp_path, *ADDED)
    assert load_config(tmp_path).to_dict() == config.to_dict()
    check_same_training(config, tmp_path)


def test_unknown_fields_are_ignored(tmp_path):
    save_config(quickstart.get_config(), tmp_path)
    change(tmp_path, schedule={"name": "linear", "t_max": 200}, nothing=1)
    config = load_config(tmp_path)
    assert config.schedule.name == "linear" and "nothing" not in config


@pytest.mark.parametrize("content", ['{"architectures": ["ViT"]}', "[]", "{", '{"model": 3, "dataset": {}}'])
def test_foreign_config_is_refused(tmp_path, content):
    """Other programs call their files config.json, too."""
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(UserError, match=f"{CONFIG_FILE} cannot be read"):
        load_config(tmp_path)


@pytest.mark.reliability
def test_older_run_is_resumed_and_reported(tiny_config, tmp_path):
    workdir = tmp_path / "runs" / "run"
    train_and_evaluate(tiny_config, str(workdir))
    change(workdir, *ADDED)
    (workdir / "summary.json").unlink()
    assert train_and_evaluate(tiny_config, str(workdir))["last"]["epoch"] == tiny_config.num_epochs
    (run,) = read_runs(tmp_path / "runs")
    assert run.summary["last"]["epoch"] == tiny_config.num_epochs
