"""Releases: made from a run, read like a run, and refused if they do not match their card."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

import jaxresnet
from jaxresnet import evaluate, export, predict
from jaxresnet.config import load_config
from jaxresnet.convert.runs import import_weights
from jaxresnet.data.loading import load_dataset
from jaxresnet.evaluate import evaluate_run
from jaxresnet.export.release import in_half_precision, write_release
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.folder import read_summary
from tests.conftest import make_tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_npz):
    """Return the workdir of a bfloat16 run. Its release computes in float32."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = make_tiny_config(tiny_npz)
    config.dtype = "bfloat16"
    train_and_evaluate(config, str(workdir))
    return workdir


@pytest.fixture(scope="module")
def shipped(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "pretrained" / "digits"
    export.main([f"--workdir={run}", "--format=release", f"--out={folder}", "--note=Trained for these tests."])
    return folder


@pytest.fixture
def copy(shipped, tmp_path):
    return shutil.copytree(shipped, tmp_path / "copy")


def test_the_card_says_what_the_files_score(shipped, run, tiny_npz, tmp_path):
    card = json.loads((shipped / "card.json").read_text())
    accuracy = card["accuracy"]
    evaluation = evaluate_run(str(shipped), "last", str(tiny_npz))
    assert accuracy["single_view"] == evaluation.scores.sums.means("test")["test_accuracy"]
    mirrored = evaluate_run(str(shipped), "last", str(tiny_npz), mirror=True).scores.sums
    assert accuracy["with_mirrored_view"] == mirrored.means("test")["test_accuracy"]
    unrounded = shutil.copytree(run, tmp_path / "float32")
    config = (run / "config.json").read_text()
    (unrounded / "config.json").write_text(config.replace('"bfloat16"', '"float32"'))
    trained = evaluate_run(str(unrounded), "last").scores.sums
    assert accuracy["before_rounding_to_half_precision"] == trained.means("test")["test_accuracy"]
    confusion = evaluation.scores.confusion
    assert sum(confusion.sum(1) * list(accuracy["per_class"].values())) / confusion.sum() == pytest.approx(
        accuracy["single_view"]
    )
    assert (card["seed"], card["epochs"], card["step"], accuracy["test_images"]) == (0, 2, 12, 50)
    words = (shipped / "README.md").read_text()
    assert "Trained for these tests." in words and card["sha256"] in words
    assert f"**{accuracy['single_view']:.2f}%**" in words


def test_the_mirrored_view_is_the_mean_of_two(shipped, tiny_npz):
    classifier = jaxresnet.load(str(shipped))
    test = load_dataset("cifar10", str(tiny_npz), 10).test
    logits = (classifier.logits(test.images) + classifier.logits(test.images[:, :, ::-1])) / 2
    sums = evaluate_run(str(shipped), "last", str(tiny_npz), mirror=True).scores.sums
    assert sums.correct == (logits.argmax(-1) == test.labels).sum()


def test_weights_are_the_runs_rounded_once(shipped, run):
    ours, theirs = jaxresnet.load(str(shipped)).variables, jaxresnet.load(str(run)).variables
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b).astype(np.float16).astype(np.float32))


def test_it_names_nothing_of_the_machine_and_computes_in_float32(shipped):
    config = load_config(shipped)
    assert config.dataset.data_dir is None and config.dtype == "float32"
    assert json.loads((shipped / "card.json").read_text())["trained_in"] == "bfloat16"


def test_a_run_without_flips_has_no_mirrored_view(quickstart_run, tmp_path):
    card = write_release(str(quickstart_run), str(tmp_path / "out"), "", None)
    assert card["accuracy"]["with_mirrored_view"] is None
    assert "mirror" not in (tmp_path / "out" / "README.md").read_text()


def test_its_weights_make_a_run_and_a_run_may_hold_them(shipped, run, tiny_npz, tmp_path):
    import_weights(shipped / "model.safetensors", load_config(shipped), tmp_path / "imported")
    images = load_dataset("cifar10", str(tiny_npz), 10).test.images
    expected = jaxresnet.load(str(shipped)).logits(images)
    np.testing.assert_array_equal(jaxresnet.load(str(tmp_path / "imported")).logits(images), expected)
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copy(shipped / "model.safetensors", copy)
    assert train_and_evaluate(load_config(copy), str(copy)) == read_summary(run)
    np.testing.assert_array_equal(jaxresnet.load(str(copy)).logits(images), jaxresnet.load(str(run)).logits(images))


def test_every_command_that_reads_a_run_reads_it(shipped, tiny_npz, tmp_path, capsys):
    evaluate.main([f"--workdir={shipped}", "--mirror", f"--data_dir={tiny_npz}"])
    assert "step 12: test accuracy" in capsys.readouterr().out
    predict.main([f"--workdir={shipped}", f"--data_dir={tiny_npz}"])
    assert "of 50 labelled images right" in capsys.readouterr().out
    export.main([f"--workdir={shipped}", "--format=stablehlo", f"--out={tmp_path / 'model.stablehlo'}"])
    assert (tmp_path / "model.stablehlo").stat().st_size > 0


def test_it_is_not_trained_on_or_overwritten(shipped, run, tiny_npz):
    with pytest.raises(UserError, match=r"holds a release.*--from_torch="):
        train_and_evaluate(make_tiny_config(tiny_npz), str(shipped))
    with pytest.raises(UserError, match="never overwritten"):
        write_release(str(run), str(shipped), "", None)
    assert sorted(path.name for path in shipped.iterdir()) == [
        "README.md",
        "card.json",
        "classes.json",
        "config.json",
        "model.safetensors",
    ]


def test_an_unfinished_run_is_not_released(run, tmp_path):
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "summary.json").unlink()
    with pytest.raises(UserError, match="no finished run"):
        write_release(str(unfinished), str(tmp_path / "out"), "", None)
    assert not (tmp_path / "out").exists()


def test_values_beyond_half_precision_are_refused():
    with pytest.raises(UserError, match=r"bn1\.running_var holds values above 65,504"):
        in_half_precision({"bn1.running_var": np.array([1e6], np.float32)})


@pytest.mark.parametrize("position", [10, -1, 0])
def test_a_changed_byte_is_noticed(copy, position):
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"changed or damaged: its SHA-256 is"):
        jaxresnet.load(str(copy))


def test_weights_that_are_none_are_refused_whatever_the_card_says(copy):
    (copy / "model.safetensors").write_bytes(b"garbage")
    card = json.loads((copy / "card.json").read_text())
    card["sha256"] = hashlib.sha256(b"garbage").hexdigest()
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="is not a safetensors file, or a damaged one"):
        jaxresnet.load(str(copy))


def test_weights_that_the_config_does_not_fit_are_refused_in_one_line(copy):
    path = copy / "config.json"
    fields = json.loads(path.read_text())
    fields["model"]["channels"] = [4, 16]
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"does not fit config\.json beside it") as refused:
        jaxresnet.load(str(copy))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"sha256": 1, "step": 1, "epochs": 1}', "[" * 10**5])
def test_a_card_that_cannot_be_read_is_named(copy, content):
    path = copy / "card.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"card.json cannot be read"):
        jaxresnet.load(str(copy))


def test_missing_weights_are_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors: there is no such file"):
        jaxresnet.load(str(copy))


def test_it_holds_one_checkpoint(shipped):
    with pytest.raises(UserError, match="and holds the last checkpoint alone"):
        jaxresnet.load(str(shipped), 7)


def test_a_mirror_means_nothing_to_a_run_without_flips(quickstart_run):
    with pytest.raises(UserError, match=r"augment\.flip=False"):
        evaluate_run(str(quickstart_run), "last", mirror=True)
