"""The model that this repository ships: usable in a fresh clone, and as good as its card says."""

import json
import os

import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import jaxresnet
from jaxresnet import evaluate, export, predict
from jaxresnet.convert.runs import export_weights
from jaxresnet.core.model import count_parameters
from jaxresnet.data.loading import load_dataset
from tests.conftest import REPOSITORY
from tests.torch_reference import TorchResNet

PRETRAINED = REPOSITORY / "pretrained" / "cifar10"
CARD = json.loads((PRETRAINED / "card.json").read_text())
needs_cifar10 = pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ, reason="set TFDS_DATA_DIR to a folder of tfds that holds cifar10"
)


@pytest.fixture(scope="module")
def classifier():
    return jaxresnet.load(str(PRETRAINED))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_it_is_the_papers_network(classifier):
    assert count_parameters(classifier.variables["params"]) == CARD["parameters"] == 4_697_162
    assert classifier.model.channels == (64, 128, 256) and classifier.model.blocks == (4, 4, 3)


def test_it_classifies_a_picture_without_data(picture, capsys):
    predict.main([f"--workdir={PRETRAINED}", str(picture)])
    printed = capsys.readouterr().out
    assert "cat" in printed and "1 image" in printed


def test_it_is_exported(classifier, tmp_path):
    out = tmp_path / "model.stablehlo"
    export.main([f"--workdir={PRETRAINED}", "--format=stablehlo", f"--out={out}"])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    probabilities = jax.export.deserialize(bytearray(out.read_bytes())).call(images)
    np.testing.assert_allclose(probabilities, classifier.probabilities(images), atol=1e-5)


def test_the_reference_network_in_pytorch_gives_equal_logits(classifier):
    """PyTorch's own reader loads the shipped file itself."""
    model = TorchResNet()
    weights = safetensors.torch.load_file(PRETRAINED / "model.safetensors")
    missing, unexpected = model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    inputs = torch.from_numpy(np.array(classifier.transform.eval(jnp.asarray(images))).transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = model.eval()(inputs).numpy()
    np.testing.assert_allclose(classifier.logits(images), expected, rtol=1e-4, atol=1e-4)


def test_its_weights_convert_to_pytorchs(classifier):
    """``convert --to_torch`` writes the shipped values and PyTorch's counters of batches."""
    shipped = safetensors.torch.load_file(PRETRAINED / "model.safetensors")
    state_dict, _ = export_weights(PRETRAINED, "last")
    assert {key for key in state_dict if not key.endswith("num_batches_tracked")} == shipped.keys()
    for key, value in shipped.items():
        np.testing.assert_array_equal(state_dict[key], value.numpy().astype(np.float32))
    assert state_dict["bn1.num_batches_tracked"] == CARD["step"]


@needs_cifar10
def test_a_thousand_test_images_score_as_the_card_says(classifier):
    test = load_dataset("cifar10", None, 10).test
    accuracy = 100 * np.mean(classifier.logits(test.images[:1000]).argmax(-1) == test.labels[:1000])
    assert accuracy == pytest.approx(
        CARD["accuracy"]["single_view"], abs=2.5
    )  # three standard deviations of the sample


@needs_cifar10
@pytest.mark.reliability
def test_evaluate_finds_the_accuracy_of_the_card(capsys):
    evaluate.main([f"--workdir={PRETRAINED}"])
    accuracy = float(capsys.readouterr().out.partition("test accuracy ")[2].partition("%")[0])
    # An image or two may lie so near the border of two classes that float32 sums of another order decide otherwise.
    assert accuracy == pytest.approx(CARD["accuracy"]["single_view"], abs=0.03)
