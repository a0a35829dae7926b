"""Weights to begin with, frozen stages, and the command for pictures of one's own."""

import hashlib
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from jaxresnet import export, finetune, initial, predict
from jaxresnet.config import load_config
from jaxresnet.core.state import create_train_state
from jaxresnet.evaluate import evaluate_run
from jaxresnet.inference import load
from jaxresnet.system.errors import Interrupted, UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.weights import to_state_dict
from jaxresnet.workdir.folder import IMPORTED_FILE, SPLIT_FILE
from jaxresnet.workdir.runs import read_runs
from scripts.same_run import differences, read_outcome
from tests.conftest import make_tiny_config
from tests.data.test_loading import save_classes
from tests.test_training import stop_after
from tests.torch_reference import needs_torch, torch

NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_npz):
    """Return a folder with a trained run, and the same weights as a release and as files."""
    folder = tmp_path_factory.mktemp("source")
    train_and_evaluate(make_tiny_config(tiny_npz), str(folder / "run"))
    export.main([f"--workdir={folder / 'run'}", "--format=release", f"--out={folder / 'release'}"])
    for name, kind in (("model.safetensors", "safetensors"), *[("model.pth", "torch")] * bool(torch)):
        export.main([f"--workdir={folder / 'run'}", f"--format={kind}", f"--out={folder / name}"])
    return folder


def begin(config, class_names=NAMES):
    """Return the first state's weights under PyTorch's names, those that were drawn, and the record."""
    drawn = create_train_state(config, (32, 32, 3))
    state, imported = initial.begin_from(drawn, config, class_names)
    return to_state_dict(jax.device_get(state.variables)), to_state_dict(drawn.variables), imported


# Weights to begin with.


@pytest.mark.parametrize("kind", ["run", "release", "model.safetensors", pytest.param("model.pth", marks=needs_torch)])
def test_runs_begin_with_given_weights(source, tiny_config, kind):
    tiny_config.init_from = str(source / kind)
    weights, _, imported = begin(tiny_config)
    expected = to_state_dict(load(str(source / "run")).variables)
    for key, array in expected.items():
        rounded = array.astype(np.float16).astype(np.float32) if kind == "release" else array
        np.testing.assert_array_equal(weights[key], rounded)
    file = {"run": "run", "release": "release/model.safetensors"}.get(kind, kind)
    assert imported["file"] == tiny_config.init_from and imported["initialised"] == []
    if kind != "run":
        assert imported["sha256"] == hashlib.sha256((source / file).read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["run", "release", "model.safetensors"])
def test_other_names_get_a_new_head(source, tiny_config, kind):
    """The number of classes stays. A file without names keeps a linear layer that fits."""
    tiny_config.init_from = str(source / kind)
    weights, drawn, imported = begin(tiny_config, class_names=tuple("abcdefghij"))
    assert imported["initialised"] == ["linear.bias", "linear.weight"]
    for key, array in weights.items():
        assert np.array_equal(array, drawn[key]) == key.startswith("linear.")


def test_names_in_another_order_are_followed(source, tiny_config):
    tiny_config.init_from = str(source / "run")
    kept, _, _ = begin(tiny_config)
    turned, _, imported = begin(tiny_config, class_names=NAMES[::-1])
    assert imported["initialised"] == []
    np.testing.assert_array_equal(turned["linear.weight"], kept["linear.weight"][::-1])
    np.testing.assert_array_equal(turned["linear.bias"], kept["linear.bias"][::-1])


@pytest.mark.parametrize(
    ("init_from", "fields", "message"),
    [
        ("nowhere", {}, "nowhere: there is no such file"),
        ("pretrained:imagenet", {}, "there is no released model 'pretrained:imagenet'; expected one of"),
        ("run/metrics.jsonl", {}, "is not a PyTorch checkpoint" if torch else r"needs PyTorch \(pip install"),
        ("run/checkpoints", {}, "holds no run: there is no config.json"),
        (
            "run",
            {"channels": (4, 6)},
            r"the weights do not fit the model\n\d+ of another shape: .*expected \(6, 4, 3, 3",
        ),
        ("run", {"blocks": (1, 2)}, r"the weights do not fit the model\n10 missing: layer2.1.bn1.running_mean, "),
        ("run", {"pooling": "5"}, r"linear.weight \(10, 8\), .*\n.*give the model.pooling that it was trained with"),
    ],
)
def test_weights_that_fit_nowhere_are_refused(source, tiny_config, tmp_path, init_from, fields, message):
    tiny_config.init_from = init_from if ":" in init_from else str(source / init_from)
    tiny_config.model.update(fields)
    with pytest.raises(UserError, match=message):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_other_pooling_needs_other_classes(source, tiny_config):
    tiny_config.init_from, tiny_config.model.pooling = str(source / "run"), "5"
    weights, drawn, _ = begin(tiny_config, class_names=tuple("abcdefghij"))
    np.testing.assert_array_equal(weights["linear.weight"], drawn["linear.weight"])


def test_resume_needs_no_source(source, tiny_config, tmp_path, monkeypatch, capsys):
    shutil.copytree(source / "run", tmp_path / "source")
    tiny_config.init_from, tiny_config.freeze = str(tmp_path / "source"), "stem"
    train_and_evaluate(tiny_config, str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="saved after step 3"):
            train_and_evaluate(tiny_config, str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")  # as if it had been killed before the first save
    shutil.rmtree(tmp_path / "source")
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    outcomes = [read_outcome(tiny_config, tmp_path / name) for name in ("run", "whole")]
    assert differences(*outcomes) == []
    for name in ("run", "whole"):
        assert json.loads((tmp_path / name / IMPORTED_FILE).read_text())["file"] == tiny_config.init_from
    assert read_runs(tmp_path) == []
    assert "did not begin with random weights" in capsys.readouterr().err
    with pytest.raises(UserError, match="init_from=None"):
        train_and_evaluate(make_tiny_config(tiny_config.dataset.data_dir), str(tmp_path / "run"))


# Frozen stages.


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("freeze", ["stem,layer1", "all-but-head"])
def test_frozen_stages_keep_every_bit(source, tiny_config, tmp_path, optimizer, freeze):
    tiny_config.init_from, tiny_config.freeze = str(source / "run"), freeze
    tiny_config.optimizer.name, tiny_config.num_epochs = optimizer, 1
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    before, after = (to_state_dict(load(str(each)).variables) for each in (source / "run", tmp_path / "run"))
    changed = {key.split(".")[0] for key in before if before[key].tobytes() != after[key].tobytes()}
    assert changed == {"linear"} if freeze == "all-but-head" else {"linear", "layer2"}


def test_unknown_stages_are_refused(tiny_config, tmp_path):
    tiny_config.freeze = "stem,layer3"
    with pytest.raises(UserError, match="no stage 'layer3'; expected all-but-head, or some of stem,layer1,layer2"):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))


# The command.


def test_pictures_are_learned_and_named(source, tmp_path, capsys, monkeypatch):
    """A run of 48x48 pixels is stopped, resumed, scored, used and exported."""
    photos = save_classes(tmp_path / "photos", {"cat": 6, "dog": 10})
    flags = [str(photos), f"--from={source / 'run'}", "--config.num_epochs=2", "--config.dataset.image_size=48"]
    finetune.main([*flags, f"--workdir={tmp_path / 'whole'}"])
    printed = capsys.readouterr().out
    assert "test accuracy" in printed and f"jaxresnet predict --workdir={tmp_path / 'whole'}" in printed
    config = load_config(tmp_path / "whole")
    assert (config.batch_size, config.model.num_classes, config.model.channels) == (8, 2, (4, 8))
    assert len(json.loads((tmp_path / "whole" / SPLIT_FILE).read_text())["test"]) == 1 + 2
    with monkeypatch.context() as patch:
        stop_after(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            finetune.main([*flags, f"--workdir={tmp_path / 'run'}"])
    finetune.main([*flags, f"--workdir={tmp_path / 'run'}"])
    outcomes = [read_outcome(config, tmp_path / name) for name in ("run", "whole")]
    assert differences(*outcomes) == []

    Image.new("RGB", (48, 48), (0, 0, 0)).save(photos / "cat" / "more.png")  # drawn anew, the test images would differ
    accuracy = evaluate_run(str(tmp_path / "run"), "last").scores.sums.means("test")["test_accuracy"]
    assert accuracy == outcomes[0].summary["last"]["accuracy"]
    predict.main([f"--workdir={tmp_path / 'run'}", str(photos / "dog" / "1.png"), f"--out={tmp_path / 'p.jsonl'}"])
    assert {each["class"] for each in json.loads((tmp_path / "p.jsonl").read_text())["top"]} == {"cat", "dog"}
    export.main([f"--workdir={tmp_path / 'run'}", "--format=stablehlo", f"--out={tmp_path / 'm.stablehlo'}"])
    program = jax.export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    assert program.in_avals[0].shape[1:] == (48, 48, 3)


def test_fields_follow_from_the_pictures(tmp_path, monkeypatch):
    files = {"train": {"cat": [None] * 2_000, "dog": [None] * 2_000}}
    monkeypatch.setattr(finetune, "find_images", lambda photos: (files, None))
    choose = lambda freeze, **fields: finetune.choose_config(  # noqa: E731
        tmp_path, tmp_path / "run", "pretrained:cifar10", freeze, {name: str(value) for name, value in fields.items()}
    )
    config = choose("")
    assert (config.batch_size, config.num_epochs, config.schedule.learning_rate) == (64, 10, 0.02)
    assert config.model.channels == (64, 128, 256) and config.augment.mean == (0.4914, 0.4822, 0.4465)
    assert choose("all-but-head", batch_size=7).batch_size == 7
    files["train"] = {"cat": [None] * 3, "dog": [None] * 2}
    config = choose("all-but-head")
    assert (config.batch_size, config.num_epochs, config.schedule.learning_rate) == (5, 60, 0.1)


def test_pictures_that_are_missing_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, message in (("nowhere", "there is no such folder"), ("empty", "two or more classes, found []")):
        with pytest.raises(SystemExit):
            finetune.main([str(tmp_path / folder), f"--workdir={tmp_path / 'run'}"])
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_larger_images_need_global_pooling(tmp_path, tiny_config):
    tiny_config.dataset.data_dir = str(save_classes(tmp_path / "photos", {"cat": 20, "dog": 20}))
    tiny_config.dataset.image_size, tiny_config.model.pooling, tiny_config.model.num_classes = 64, "5", 2
    with pytest.raises(UserError, match=r"give model\.pooling=global"):
        train_and_evaluate(tiny_config, str(tmp_path / "run"))
