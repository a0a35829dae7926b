"""Damaged and changed small files of a run: every command refuses them in one line or reads them correctly."""

import json
import shutil

import pytest
from ml_collections import ConfigDict

from jaxresnet.config import load_config, save_config
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.folder import (
    CONFIG_FILE,
    CONFUSION_FILE,
    FAILURE_FILE,
    IMPORTED_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    read_confusion,
    read_failure,
    read_summary,
    write_json,
)
from jaxresnet.workdir.log import read_metrics

pytestmark = pytest.mark.reliability


def small_files(run, folder):
    """Write the small files of a finished run, a diverged one and one with imported weights. Return their folder."""
    for file in run.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    (folder / FAILURE_FILE).write_text("the loss became nan\n")
    origin = {"file": "a.pth", "sha256": "0", "epochs": None, "accuracy": 93.5, "num_batches_tracked": {"bn1": 3}}
    write_json(folder / IMPORTED_FILE, origin)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, quickstart_run):
    return small_files(quickstart_run, tmp_path_factory.mktemp("run"))


@pytest.fixture
def broken(run, tmp_path):
    """Return a copy for a test to change."""
    return shutil.copytree(run, tmp_path / "broken")


def assert_a_config(config):
    groups = (config.model, config.dataset, config.augment, config.optimizer, config.schedule)
    assert config.is_locked and all(isinstance(group, ConfigDict) for group in groups)


def assert_metrics(lines):
    assert isinstance(lines, list)  # A line that is JSON is returned as it is.


def assert_a_summary(summary):
    assert {"best", "last", "device"} <= summary.keys()


def assert_confusion(read):
    _, matrix = read
    assert all(isinstance(count, int) for row in matrix for count in row)  # The matrix may have fewer rows than names.


def assert_a_failure(reason):
    assert isinstance(reason, str)


# The reader of each small file, and an assertion about what it returns.
READERS = {
    CONFIG_FILE: (load_config, assert_a_config),
    METRICS_FILE: (read_metrics, assert_metrics),
    SUMMARY_FILE: (read_summary, assert_a_summary),
    CONFUSION_FILE: (read_confusion, assert_confusion),
    FAILURE_FILE: (read_failure, assert_a_failure),
}


BROKEN = {
    "no text": (METRICS_FILE, b"\xff\xfe\n", read_metrics),
    "a summary that is cut short": (SUMMARY_FILE, b'{"best": {', read_summary),
    "a config whose model is a number": (
        CONFIG_FILE,
        b'{"seed": 0, "dtype": "", "batch_size": 1, "eval_batch_size": 1, "model": 3, "dataset": {}, "augment": {}, '
        b'"optimizer": {}, "schedule": {}}',
        load_config,
    ),
    "a confusion without numbers": (CONFUSION_FILE, b",a,b\na,1,x\n", read_confusion),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_damaged_file_is_refused_in_one_line(tmp_path, kind):
    name, content, read = BROKEN[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as raised:
        read(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("group", "name", "value"), [("model", "blocks", "many"), ("paper", "curve", 3)])
def test_invalid_stored_config_names_field(tiny_config, tmp_path, group, name, value):
    save_config(tiny_config, tmp_path)
    fields = json.loads((tmp_path / CONFIG_FILE).read_text())
    fields[group][name] = value
    (tmp_path / CONFIG_FILE).write_text(json.dumps(fields))
    with pytest.raises(UserError, match=rf"config\.json cannot be read \({group}\.{name}="):
        load_config(tmp_path)


def test_config_without_newer_fields_is_read(tiny_config, tmp_path):
    with tiny_config.unlocked():
        del tiny_config.schedule["restarts"], tiny_config["name"]
    save_config(tiny_config, tmp_path)
    assert load_config(tmp_path).schedule.learning_rate == tiny_config.schedule.learning_rate
