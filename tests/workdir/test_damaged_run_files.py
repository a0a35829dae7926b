"""Damaged and changed small files of a run: every command refuses them in one line or reads them correctly."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from jaxresnet import plot
from jaxresnet.inference import load
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.config import load_config, save_config
from jaxresnet.workdir.files import (
    format_summary,
    read_confusion,
    read_failure,
    read_imported,
    read_summary,
    write_failure,
    write_imported,
)
from jaxresnet.workdir.log import MetricsWriter, is_epoch_line, read_metrics
from jaxresnet.workdir.names import CONFIG_FILE, CONFUSION_FILE, FAILURE_FILE, IMPORTED_FILE, METRICS_FILE, SUMMARY_FILE
from jaxresnet.workdir.runs import read_runs
from tests.damage import DAMAGED, damaged, read_or_refuse

pytestmark = pytest.mark.reliability

FEW = settings(max_examples=max(5, settings.default.max_examples // 10))


def small_files(run, folder):
    """Write the small files of a finished run, a diverged one and one with imported weights. Return their folder."""
    for file in run.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    write_failure("the loss became nan", folder)
    origin = {"file": "a.pth", "sha256": "0", "epochs": None, "accuracy": 93.5, "num_batches_tracked": {"bn1": 3}}
    write_imported(origin, folder)
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
    for line in lines:
        assert all(type(value) in (int, float) for value in line.values()) and line["step"] >= 0
        assert {"epoch", "step", "learning_rate", "train_loss", "train_accuracy"} <= line.keys()
        assert not is_epoch_line(line) or {"test_loss", "test_accuracy"} <= line.keys()


def assert_a_summary(summary):
    assert format_summary(summary)


def assert_confusion(read):
    names, matrix = read
    assert np.array(matrix).shape == (len(names), len(names)) and np.min(matrix) >= 0


def assert_imported(origin):
    assert all(type(number) is int and number >= 0 for number in origin["num_batches_tracked"].values())


def assert_a_failure(reason):
    assert isinstance(reason, str)


# The reader of each small file, and an assertion about what it returns.
READERS = {
    CONFIG_FILE: (load_config, assert_a_config),
    METRICS_FILE: (lambda folder: read_metrics(folder, "test"), assert_metrics),
    SUMMARY_FILE: (read_summary, assert_a_summary),
    CONFUSION_FILE: (read_confusion, assert_confusion),
    IMPORTED_FILE: (read_imported, assert_imported),
    FAILURE_FILE: (read_failure, assert_a_failure),
}


SCALAR = st.none() | st.booleans() | st.integers() | st.integers(-2, 3) | st.floats() | st.text(max_size=5)
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@st.composite
def changed(draw, fields, depth=0):
    """Draw the nested dictionaries with one value replaced or removed."""
    name = draw(st.sampled_from(sorted(fields)))
    if isinstance(fields[name], dict) and fields[name] and draw(st.booleans()):
        return fields | {name: draw(changed(fields[name]))}
    if draw(st.integers(0, 3)) == 0:
        return {key: value for key, value in fields.items() if key != name}
    return fields | {name: draw(JSON)}


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(("json", "jsonl"))])
@given(data=st.data())
def test_values_of_other_types_are_refused_or_are_what_they_should_be(name, data, run, broken, count):
    fields = json.loads((run / name).read_text().splitlines()[-1] if name == METRICS_FILE else (run / name).read_text())
    (broken / name).write_text(json.dumps(data.draw(changed(fields) | JSON)) + "\n")
    read, check = READERS[name]
    read_or_refuse(lambda: check(read(broken)))
    count(DAMAGED)


def use(folder, config):
    """Run everything that reads the small files of a run."""
    read_or_refuse(train_and_evaluate, config, str(folder))
    read_or_refuse(load, str(folder))
    read_or_refuse(plot.plot_run, str(folder), str(folder / "curves.png"))
    read_or_refuse(read_runs, folder)
    if writer := read_or_refuse(MetricsWriter, folder, 3, 0):
        writer.close()


@FEW
@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_no_command_ends_in_a_traceback(name, data, run, broken, capsys, count):
    content = (run / name).read_bytes()
    if name.endswith("json") and data.draw(st.booleans()):
        strategy = changed(json.loads(content)).map(lambda fields: json.dumps(fields).encode())
    else:
        strategy = damaged(content)
    (broken / name).write_bytes(data.draw(strategy))
    for file in run.iterdir():  # restores files that the commands have changed
        if file.name != name:
            shutil.copy(file, broken)
    if name != IMPORTED_FILE:  # the report leaves out runs that have one
        (broken / IMPORTED_FILE).unlink()
    use(broken, load_config(run))
    count(DAMAGED)


@FEW
@given(data=st.data())
def test_a_run_whose_metrics_are_damaged_goes_on_to_the_same_end_or_is_refused(
    data, quickstart_run, tmp_path_factory, count
):
    """The run resumes from its last checkpoint, where only the summary is left to write."""
    folder = tmp_path_factory.getbasetemp() / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(quickstart_run, folder)
    summary = read_summary(folder)
    (folder / SUMMARY_FILE).unlink()
    (folder / METRICS_FILE).write_bytes(data.draw(damaged((folder / METRICS_FILE).read_bytes())))
    assert read_or_refuse(train_and_evaluate, load_config(folder), str(folder)) in (None, summary)
    count(DAMAGED)


DEEP = "[" * 100_000
BROKEN = {
    "no text": (METRICS_FILE, b"\xff\xfe\n", read_metrics),
    "no object": (METRICS_FILE, b"3\n", read_metrics),
    "no step": (METRICS_FILE, b'{"epoch": 1}\n', read_metrics),
    "a step that is text": (METRICS_FILE, b'{"epoch": 1, "step": "3"}\n', read_metrics),
    "deep metrics": (METRICS_FILE, f"{DEEP}\n".encode(), read_metrics),
    "a summary that is a list": (SUMMARY_FILE, b"[]", read_summary),
    "a summary that is empty": (SUMMARY_FILE, b"{}", read_summary),
    "a deep summary": (SUMMARY_FILE, DEEP.encode(), read_summary),
    "a deep config": (CONFIG_FILE, DEEP.encode(), load_config),
    "a config whose model is a number": (
        CONFIG_FILE,
        b'{"seed": 0, "dtype": "", "batch_size": 1, "eval_batch_size": 1, "model": 3, "dataset": {}, "augment": {}, '
        b'"optimizer": {}, "schedule": {}}',
        load_config,
    ),
    "a confusion of too long a field": (CONFUSION_FILE, b'"' + b"a" * 200_000, read_confusion),
    "a confusion with a short row": (CONFUSION_FILE, b",a,b\na,1,2\nb,3\n", read_confusion),
    "a confusion of negative counts": (CONFUSION_FILE, b",a\na,-1\n", read_confusion),
    "an import of none": (IMPORTED_FILE, b"3", read_imported),
    "counters that are text": (IMPORTED_FILE, b'{"num_batches_tracked": {"a": "b"}}', read_imported),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_once_ended_in_a_traceback_is_refused_in_one_line(tmp_path, kind):
    name, content, read = BROKEN[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.") if content != b"{}" else "summary") as raised:
        read(tmp_path)
    assert "\n" not in str(raised.value)


def test_why_a_run_diverged_is_read_whatever_its_encoding(tmp_path):
    (tmp_path / FAILURE_FILE).write_bytes(b"the loss became \xff\n")
    assert read_failure(tmp_path) == "the loss became \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(("group", "name", "value"), [("model", "blocks", "many"), ("paper", "curve", 3)])
def test_a_config_changed_to_what_cannot_work_names_the_field(tiny_config, tmp_path, group, name, value):
    save_config(tiny_config, tmp_path)
    fields = json.loads((tmp_path / CONFIG_FILE).read_text())
    fields[group][name] = value
    (tmp_path / CONFIG_FILE).write_text(json.dumps(fields))
    with pytest.raises(UserError, match=rf"config\.json cannot be read \({group}\.{name}="):
        load_config(tmp_path)


def test_a_config_older_than_some_fields_is_read(tiny_config, tmp_path):
    with tiny_config.unlocked():
        del tiny_config.schedule["restarts"], tiny_config["name"]
    save_config(tiny_config, tmp_path)
    assert load_config(tmp_path).schedule.learning_rate == tiny_config.schedule.learning_rate
