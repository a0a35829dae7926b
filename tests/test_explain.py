"""Grad-CAM, input gradients, features and neighbours of a network whose answers are known."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from jaxresnet import explain
from jaxresnet.core.augment import Transform
from jaxresnet.core.model import ResNet
from jaxresnet.core.programs import create_mesh
from jaxresnet.inference import Classifier


@pytest.fixture(scope="module")
def brightness():
    """Return a classifier whose first logit is the mean brightness of the image, and whose second is minus that."""
    model = ResNet(channels=(2, 2), blocks=(1, 1), num_classes=2)
    variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 32, 32, 3)), train=False)
    flat = {path: np.zeros_like(leaf) for path, leaf in traverse_util.flatten_dict(variables).items()}
    flat["params", "conv1", "kernel"][1, 1] = 1 / 3  # the pixel itself, as grey
    flat["params", "layer2_0", "shortcut_conv", "kernel"][0, 0] = np.eye(2)
    for path, leaf in flat.items():
        if path[-1] in ("scale", "var"):
            leaf[:] = 1
    flat["params", "linear", "kernel"][0] = (1, -1)
    variables = traverse_util.unflatten_dict(flat)
    transform = Transform((), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Classifier(model, variables, transform, ("bright", "dark"), 2, create_mesh())


def test_grad_cam_finds_the_bright_part(brightness):
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0, 8:16, 16:24], pixels[1, 24:, :8] = 200, 100
    maps = explain.grad_cam(brightness, pixels, np.array([0, 0]))
    expected = np.zeros((2, 16, 16))  # the second stage has half the size, and its first layer is the identity
    expected[0, 4:8, 8:12], expected[1, 12:, :4] = 1, 1
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert explain.grad_cam(brightness, pixels, np.array([1, 1])).max() == 0  # nothing there speaks for "dark"


def test_input_gradients_are_where_pixels_count(brightness):
    pixels = np.full((1, 32, 32, 3), 100, np.uint8)
    gradients = explain.input_gradients(brightness, pixels, np.array([0]))
    # The shortcut of stride 2 reads every other pixel.
    expected = np.zeros((1, 32, 32))
    expected[:, ::2, ::2] = 1
    np.testing.assert_allclose(gradients, expected, atol=1e-6)


def test_features_and_apply_fn_give_the_logits(brightness):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    linear = brightness.variables["params"]["linear"]
    logits = brightness.features(pixels) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(logits, brightness.logits(pixels), atol=1e-6)
    apply_fn, variables = brightness.functional()
    np.testing.assert_allclose(apply_fn(variables, pixels), brightness.logits(pixels), atol=1e-6)
    assert brightness.features([]).shape == (0, 2) and brightness.logits([]).shape == (0, 2)


def test_nearest_are_most_alike_first():
    others = np.array([[1.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    assert explain.nearest(np.array([[2.0, 1.9], [0.1, 9.0]]), others, 2).tolist() == [[2, 0], [1, 2]]


def test_embedding_separates_distinct_groups():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(20, 8)) + 50, rng.normal(size=(20, 8)) - 50])
    places = explain.embed(features)
    first, second = places[:20], places[20:]
    between = np.linalg.norm(first.mean(0) - second.mean(0))
    assert between > 2 * max(np.linalg.norm(group - group.mean(0), axis=1).max() for group in (first, second))


def test_explain_draws_images_neighbours_and_embedding(quickstart_run, tmp_path, capsys):
    picture = tmp_path / "three.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(picture)
    workdir = f"--workdir={quickstart_run}"
    images = str(picture)
    for name, flags in {"b.png": [images, "--neighbours=3"], "c.png": ["--embedding"]}.items():
        explain.main([*flags, workdir, f"--out={tmp_path / name}"])
        with Image.open(tmp_path / name) as drawn:
            assert min(drawn.size) > 200 and len(drawn.convert("RGB").getcolors(10**6)) > 100
    with pytest.raises(SystemExit):
        explain.main([workdir, f"--out={tmp_path / 'd.png'}"])
    assert "--embedding alone" in capsys.readouterr().err
