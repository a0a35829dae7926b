"""Releases: made from a run, read like a run, and refused if they do not match their checksum."""

import hashlib
import json
import shutil

import jax
import jax.export
import numpy as np
import pytest
import yaml
from scipy.special import softmax

import jaxresnet
from jaxresnet import evaluate, export, predict
from jaxresnet.calibration import fit_temperature, reliability
from jaxresnet.config import load_config
from jaxresnet.convert import import_weights
from jaxresnet.data.loading import hold_out, load_dataset
from jaxresnet.evaluate import evaluate_run
from jaxresnet.export import fit_release, in_half_precision, write_release
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.folder import read_summary
from jaxresnet.workdir.runs import read_runs
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


def test_scores_are_those_of_the_files(shipped, tiny_npz):
    release = read_summary(shipped)["release"]
    evaluation = evaluate_run(str(shipped), "last", str(tiny_npz))
    assert release["test_accuracy"] == evaluation.scores.sums.means("test")["test_accuracy"]
    mirrored = evaluate_run(str(shipped), "last", str(tiny_npz), mirror=True).scores.sums
    assert release["test_accuracy_mirrored"] == mirrored.means("test")["test_accuracy"]
    confusion = evaluation.scores.confusion
    mean = sum(confusion.sum(1) * list(release["test_accuracy_by_class"].values())) / confusion.sum()
    assert mean == pytest.approx(release["test_accuracy"])
    assert release["test_images"] == 50
    assert release["sha256"] == hashlib.sha256((shipped / "model.safetensors").read_bytes()).hexdigest()


def test_summary_is_that_of_the_run(shipped, run):
    assert read_summary(shipped) == read_summary(run) | {"release": read_summary(shipped)["release"]}


def test_card_has_the_fields_of_the_hub(shipped):
    release = read_summary(shipped)["release"]
    _, front, text = (shipped / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(front)
    assert (fields["license"], fields["datasets"], fields["metrics"]) == ("unknown", ["tiny"], ["accuracy"])
    (result,) = fields["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": pytest.approx(release["test_accuracy"] / 100, abs=1e-4)}]
    assert "Trained for these tests." in text and release["sha256"] in text
    assert f"**{release['test_accuracy']:.2f}%**" in text


def test_mirrored_view_averages_two(shipped, tiny_npz):
    classifier = jaxresnet.load(str(shipped))
    test = load_dataset("cifar10", str(tiny_npz), 10).test
    logits = (classifier.logits(test.images) + classifier.logits(test.images[:, :, ::-1])) / 2
    sums = evaluate_run(str(shipped), "last", str(tiny_npz), mirror=True).scores.sums
    assert sums.correct == (logits.argmax(-1) == test.labels).sum()


def test_weights_are_rounded_once(shipped, run):
    ours, theirs = jaxresnet.load(str(shipped)).variables, jaxresnet.load(str(run)).variables
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b).astype(np.float16).astype(np.float32))


def test_config_names_no_local_folder(shipped):
    config = load_config(shipped)
    assert config.dataset.data_dir is None and config.dtype == "float32"
    assert read_summary(shipped)["release"]["trained_in"] == "bfloat16"


def test_run_without_flips_has_no_mirrored_score(quickstart_run, tmp_path):
    summary = write_release(str(quickstart_run), str(tmp_path / "out"), "", "mit", None)
    assert summary["release"]["test_accuracy_mirrored"] is None
    assert "mirror" not in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UserError, match=r"augment\.flip=False"):
        evaluate_run(str(quickstart_run), "last", mirror=True)


def test_temperature_is_that_of_the_probabilities(shipped, run, tiny_npz, tmp_path):
    release, classifier = read_summary(shipped)["release"], jaxresnet.load(shipped)
    fitted = release["temperature"]
    assert classifier.temperature == fitted["value"] != 1 and jaxresnet.load(run).temperature == 1
    assert fitted["images"] == 165 and fitted["method"].startswith("training images, augmented")
    assert f"{fitted['value']:.3f}" in (shipped / "README.md").read_text()
    test = load_dataset("cifar10", str(tiny_npz), 10).test
    expected = softmax(classifier.logits(test.images) / fitted["value"], axis=-1)
    np.testing.assert_allclose(classifier.probabilities(test.images), expected, rtol=1e-5)
    scores = evaluate_run(shipped, "last", str(tiny_npz)).scores
    np.testing.assert_array_equal(scores.labels, test.labels)
    np.testing.assert_allclose(scores.logits, classifier.logits(test.images), rtol=1e-5, atol=1e-5)
    assert release["test_ece"] == 100 * reliability(scores.logits, test.labels, fitted["value"]).error
    export.main([f"--workdir={shipped}", "--format=stablehlo", f"--out={tmp_path / 'model.stablehlo'}"])
    exported = jax.export.deserialize((tmp_path / "model.stablehlo").read_bytes()).call(test.images)
    np.testing.assert_allclose(exported, expected, rtol=0, atol=1e-5)


def test_alternating_flips_are_flips_for_the_temperature(run, tiny_npz):
    config, train = load_config(run), load_dataset("cifar10", str(tiny_npz), 10).train
    fitted = [fit_release(jaxresnet.load(run), config, train)]
    config.augment.alternating_flip = True
    fitted.append(fit_release(jaxresnet.load(run), config, train))
    config.augment.flip = False
    fitted.append(fit_release(jaxresnet.load(run), config, train))
    assert fitted[0] == fitted[1] != fitted[2]


def test_card_says_that_averages_are_released(tiny_config, tmp_path):
    tiny_config.num_epochs, tiny_config.ema_decay = 1, 0.9
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    write_release(tmp_path / "run", str(tmp_path / "out"), "", "mit", None)
    assert "none: the averages of the weights after the last epoch" in (tmp_path / "out" / "README.md").read_text()


def test_held_out_images_give_the_temperature(tiny_config, tmp_path):
    tiny_config.dataset.validation_size, tiny_config.num_epochs = 40, 1
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    fitted = write_release(tmp_path / "run", str(tmp_path / "out"), "", "mit", None)["release"]["temperature"]
    held_out = hold_out(load_dataset("cifar10", tiny_config.dataset.data_dir, 10).train, 40)[1]
    value = fit_temperature(jaxresnet.load(tmp_path / "out").logits(held_out.images), held_out.labels)
    assert fitted == {"value": pytest.approx(value), "images": 40, "method": "held-out training images"}


@pytest.mark.parametrize("value", [0, "1.5", None, float("nan")])
def test_release_with_an_odd_temperature(copy, capsys, value):
    fields = json.loads((copy / "summary.json").read_text())
    fields["release"]["temperature"]["value"] = value
    (copy / "summary.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"the temperature is .*; expected a positive"):
        jaxresnet.load(copy)
    del fields["release"]["temperature"]
    (copy / "summary.json").write_text(json.dumps(fields))
    assert jaxresnet.load(copy).temperature == 1
    assert capsys.readouterr().err == (
        f"note: {copy} is a release without a temperature; its confidences are as trained\n"
    )


def test_evaluate_prints_classes_and_draws_confidences(shipped, tiny_npz, tmp_path, capsys):
    picture = tmp_path / "reliability.png"
    evaluate.main([f"--workdir={shipped}", f"--data_dir={tiny_npz}", f"--reliability={picture}"])
    release, printed = read_summary(shipped)["release"], capsys.readouterr().out
    name, accuracy = next(iter(release["test_accuracy_by_class"].items()))
    assert f"\n{name} {accuracy:.1f}%, " in printed
    assert f"ECE {release['test_ece']:.2f}%, negative log-likelihood {release['test_negative_log_likelihood']:.4f}" in (
        printed
    )
    assert picture.stat().st_size > 10_000


def test_released_weights_make_a_run(shipped, tiny_npz, tmp_path):
    import_weights(shipped / "model.safetensors", load_config(shipped), tmp_path / "imported")
    images = load_dataset("cifar10", str(tiny_npz), 10).test.images
    expected = jaxresnet.load(str(shipped)).logits(images)
    np.testing.assert_array_equal(jaxresnet.load(str(tmp_path / "imported")).logits(images), expected)


def test_exported_weights_leave_a_run(run, tiny_npz):
    images = load_dataset("cifar10", str(tiny_npz), 10).test.images
    before = jaxresnet.load(str(run)).logits(images)
    (run / "model.safetensors").write_bytes(b"of another use")
    np.testing.assert_array_equal(jaxresnet.load(str(run)).logits(images), before)


def test_commands_read_a_release_as_a_run(shipped, tiny_npz, tmp_path, capsys):
    evaluate.main([f"--workdir={shipped}", "--mirror", f"--data_dir={tiny_npz}"])
    assert "step 12: test accuracy" in capsys.readouterr().out
    predict.main([f"--workdir={shipped}", f"--data_dir={tiny_npz}"])
    assert "of 50 labelled images right" in capsys.readouterr().out
    export.main([f"--workdir={shipped}", "--format=stablehlo", f"--out={tmp_path / 'model.stablehlo'}"])
    assert (tmp_path / "model.stablehlo").stat().st_size > 0
    (found,) = read_runs(shipped)
    assert found.summary == read_summary(shipped) and found.epoch_lines == []


def test_release_is_a_finished_run_in_training(shipped, run, capsys):
    files = sorted(path.name for path in shipped.iterdir())
    assert files == ["README.md", "classes.json", "config.json", "model.safetensors", "summary.json"]
    assert train_and_evaluate(load_config(shipped), str(shipped)) == read_summary(shipped)
    assert "already holds this run, finished" in capsys.readouterr().out
    assert sorted(path.name for path in shipped.iterdir()) == files
    with pytest.raises(UserError, match="exists; give a new folder"):
        write_release(str(run), str(shipped), "", "mit", None)
    with pytest.raises(UserError, match="is a release already; give the run that it was made from"):
        write_release(str(shipped), str(shipped.parent / "again"), "", "mit", None)


def test_release_says_where_its_run_began(shipped, run, tiny_config, tmp_path):
    tiny_config.num_epochs, tiny_config.init_from = 1, str(shipped)
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    write_release(tmp_path / "run", str(tmp_path / "out"), "", "mit", None)
    sha256 = read_summary(shipped)["release"]["sha256"]
    assert f"| began with | file {shipped.name}, sha256 {sha256} |" in (tmp_path / "out" / "README.md").read_text()
    assert load_config(tmp_path / "out").init_from == shipped.name
    assert all(str(tmp_path) not in path.read_text() for path in (tmp_path / "out").glob("*.json"))
    assert "| began with | random weights |" in (shipped / "README.md").read_text()


def test_unfinished_run_is_not_released(run, tmp_path):
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "summary.json").unlink()
    with pytest.raises(UserError, match="no finished run"):
        write_release(str(unfinished), str(tmp_path / "out"), "", "mit", None)
    assert not (tmp_path / "out").exists()


def test_values_beyond_half_precision_are_refused():
    with pytest.raises(UserError, match=r"bn1\.running_var holds values above 65,504"):
        in_half_precision({"bn1.running_var": np.array([1e6], np.float32)})


@pytest.mark.parametrize("position", [10, -1])
def test_changed_byte_is_noticed(copy, position):
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"changed or damaged: its SHA-256 is not that in summary\.json"):
        jaxresnet.load(str(copy))


def test_weights_of_another_config_are_refused(copy):
    path = copy / "config.json"
    fields = json.loads(path.read_text())
    fields["model"]["channels"] = [4, 16]
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"model\.safetensors: the weights do not fit the model"):
        jaxresnet.load(str(copy))


@pytest.mark.parametrize(
    ("name", "message"), [("summary.json", "not that in summary.json"), ("model.safetensors", "holds no checkpoint")]
)
def test_incomplete_release_is_refused(copy, name, message):
    (copy / name).unlink()
    with pytest.raises(UserError, match=message):
        jaxresnet.load(str(copy))


def test_release_holds_the_last_checkpoint(shipped):
    with pytest.raises(UserError, match="which holds only the last"):
        jaxresnet.load(str(shipped), "best")
