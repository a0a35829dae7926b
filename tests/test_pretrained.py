"""The model that this repository ships: usable in a fresh clone, and as good as its summary says."""

import filecmp
import hashlib
import os
import pathlib
import shutil

import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import jaxresnet
from jaxresnet import evaluate, export, predict, released
from jaxresnet.core.model import count_parameters
from jaxresnet.data.loading import load_dataset
from jaxresnet.weights import to_state_dict
from jaxresnet.workdir.folder import read_summary
from tests.conftest import REPOSITORY
from tests.torch_reference import TorchResNet, from_torch, to_torch_images, torch

PRETRAINED = REPOSITORY / "pretrained" / "cifar10"
SUMMARY = read_summary(PRETRAINED)
needs_cifar10 = pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ, reason="set TFDS_DATA_DIR to a folder of tfds that holds cifar10"
)


@pytest.fixture(scope="module")
def classifier():
    return jaxresnet.load()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_shipped_model_is_the_papers(classifier):
    assert count_parameters(classifier.variables["params"]) == SUMMARY["parameters"] == 4_697_162
    assert classifier.model.channels == (64, 128, 256) and classifier.model.blocks == (4, 4, 3)


@pytest.mark.parametrize("workdir", [[], [f"--workdir={PRETRAINED}"], ["--workdir=pretrained:cifar10"]])
def test_predict_needs_no_data(picture, capsys, monkeypatch, workdir):
    monkeypatch.chdir(picture.parent)
    predict.main([*workdir, "cat.jpg"])
    printed = capsys.readouterr().out
    assert "cat" in printed and "1 image" in printed


def test_unknown_model_lists_the_names(capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--workdir=pretrained:cifar11"])
    line = "jaxresnet: there is no released model 'pretrained:cifar11'; expected one of pretrained:cifar10\n"
    assert capsys.readouterr().err == line


def test_default_export_spares_the_release(monkeypatch, tmp_path):
    own = shutil.copytree(PRETRAINED, tmp_path / "own")
    for number, flags in enumerate(([], [f"--workdir={own}"])):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        export.main([*flags, "--format=safetensors"])
        assert [path.name for path in pathlib.Path().iterdir()] == ["model.safetensors"]
    assert filecmp.cmp(own / "model.safetensors", PRETRAINED / "model.safetensors", shallow=False)
    assert released.resolve("~/x") == pathlib.Path("~/x").expanduser()


def test_stablehlo_of_the_shipped_model(classifier, tmp_path):
    out = tmp_path / "model.stablehlo"
    export.main([f"--workdir={PRETRAINED}", "--format=stablehlo", f"--out={out}"])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    probabilities = jax.export.deserialize(bytearray(out.read_bytes())).call(images)
    np.testing.assert_allclose(probabilities, classifier.probabilities(images), atol=1e-5)


def test_logits_equal_torchs(classifier):
    """PyTorch's own reader loads the shipped file itself."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)

    def evaluate_in_torch():
        import safetensors.torch

        model = TorchResNet()
        weights = safetensors.torch.load_file(PRETRAINED / "model.safetensors")
        model.load_state_dict({key: value.float() for key, value in weights.items()})
        with torch.no_grad():
            return {"logits": model.eval()(to_torch_images(classifier.transform.eval(jnp.asarray(images))))}

    expected = from_torch("pretrained/logits", evaluate_in_torch)["logits"]
    np.testing.assert_allclose(classifier.logits(images), expected, rtol=1e-4, atol=1e-4)


def test_shipped_file_keeps_its_bytes():
    content = (PRETRAINED / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "aaa2feed70f046ed36610264f4cca544aa91009950ad2f745684ddf39a2ad6ef"
    scores = SUMMARY["release"]
    assert (scores["test_accuracy"], scores["test_accuracy_mirrored"]) == (95.85, 96.37)


def test_export_gives_the_shipped_values(classifier):
    shipped = safetensors.numpy.load_file(PRETRAINED / "model.safetensors")
    state_dict = to_state_dict(classifier.variables)
    assert state_dict.keys() == shipped.keys()
    for key, value in shipped.items():
        np.testing.assert_array_equal(state_dict[key], value.astype(np.float32))


@needs_cifar10
@pytest.mark.reliability
def test_thousand_images_score_as_recorded(classifier):
    test = load_dataset("cifar10", None, 10).test
    accuracy = 100 * np.mean(classifier.logits(test.images[:1000]).argmax(-1) == test.labels[:1000])
    assert accuracy == pytest.approx(SUMMARY["release"]["test_accuracy"], abs=2.5)  # three standard deviations


@needs_cifar10
@pytest.mark.reliability
@pytest.mark.thorough
def test_evaluate_finds_the_recorded_accuracy(capsys):
    evaluate.main([f"--workdir={PRETRAINED}"])
    accuracy = float(capsys.readouterr().out.partition("test accuracy ")[2].partition("%")[0])
    # An image or two may lie so near the border of two classes that float32 sums of another order decide otherwise.
    assert accuracy == pytest.approx(SUMMARY["release"]["test_accuracy"], abs=0.03)
