"""The page of ``export --format=web``: its model, and in Chromium what it answers for pictures of odd kinds."""

import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading

import numpy as np
import onnxruntime
import pytest
import sklearn.datasets
from PIL import Image, ImageCms

import jaxresnet
from jaxresnet import explain, export
from jaxresnet.core.programs import create_mesh
from jaxresnet.core.state import create_model, create_train_state, create_transform
from jaxresnet.data.cifar import CIFAR10_CLASSES, IMAGE_SHAPE
from jaxresnet.data.images import read_image
from jaxresnet.data.loading import load_dataset
from jaxresnet.inference import Classifier
from jaxresnet.portable import portable
from jaxresnet.web import page
from tests.conftest import REPOSITORY, make_tiny_config
from tests.test_export import ONNX_PYTHON

BROWSER = REPOSITORY / "tests" / "browser"
STRIP = np.asarray(Image.open(REPOSITORY / "pretrained" / "cifar10" / page.EXAMPLES_FILE))
EXAMPLES = np.stack(np.split(STRIP, page.EXAMPLES, axis=1))
PHOTOGRAPHS = pathlib.Path(sklearn.datasets.__file__).parent / "images"
needs_cifar10 = pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ, reason="set TFDS_DATA_DIR to a folder of tfds that holds cifar10"
)


@pytest.fixture(params=["global", "5"])
def tiny_classifier(request, tiny_npz):
    config = make_tiny_config(tiny_npz)
    config.model.pooling = request.param
    variables = create_train_state(config, IMAGE_SHAPE).variables
    return portable(
        Classifier(create_model(config), variables, create_transform(config), CIFAR10_CLASSES, 8, create_mesh())
    )


def test_maps_sum_to_the_logits(tiny_classifier):
    logits, maps = page.logits_and_maps(tiny_classifier, EXAMPLES)
    np.testing.assert_allclose(logits, tiny_classifier.logits(EXAMPLES), rtol=0, atol=1e-5)
    bias = tiny_classifier.variables["params"]["linear"]["bias"]
    np.testing.assert_allclose(np.sum(maps, axis=(1, 2)) + bias, logits, rtol=0, atol=1e-5)
    if tiny_classifier.model.pooling == "global":
        labels = np.argmax(logits, axis=-1)
        maps = np.maximum(np.asarray(maps)[np.arange(len(labels)), :, :, labels], 0)
        maps /= maps.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(maps, explain.grad_cam(tiny_classifier, EXAMPLES, labels), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--format=web needs --out, a new folder"),
        (["--out=."], "--out=. exists; give a new folder"),
        (["--out=new"], "which npm downloads: install Node.js, or give --runtime=FOLDER with ort.wasm.bundle.min.mjs"),
        (["--out=new", "--runtime=."], "holds no ort.wasm.bundle.min.mjs; give --runtime=FOLDER"),
    ],
)
def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        export.main(["--format=web", *flags])
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "new").exists()


@needs_cifar10
@pytest.mark.reliability
def test_examples_are_first_of_classes():
    test = load_dataset("cifar10", None, 10).test
    np.testing.assert_array_equal(EXAMPLES, [test.images[test.labels == label][0] for label in range(page.EXAMPLES)])


@needs_cifar10
@pytest.mark.reliability
def test_exported_model_has_its_accuracy(exported, thorough):
    """Weights in half precision cost nothing, because a release has been rounded to it already."""
    test, size = load_dataset("cifar10", None, 10).test, 10_000 if thorough else 500
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    batches = [test.images[start : start + 250] for start in range(0, size, 250)]
    logits = np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in batches])
    np.testing.assert_allclose(logits[:500], jaxresnet.load().logits(test.images[:500]), rtol=0, atol=5e-5)
    if thorough:
        assert 100 * np.mean(logits.argmax(-1) == test.labels) == pytest.approx(95.85, abs=0.005)


# The page in Chromium.


def photograph(width, height):
    """Return a picture with smooth and sharp parts: an example, enlarged, with noise."""
    rng = np.random.default_rng(width)
    pixels = np.asarray(Image.fromarray(EXAMPLES[3]).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8))


def turned(number):
    """Return EXIF data that says how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def with_alpha(image):
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def deep(image):
    """Return a grey image of 16 bits, with low bytes that are not those of the 8 bits."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256 + 99)


def swapping():
    """Return a colour profile that swaps red and blue, for programs that follow it. Pillow and the page do not."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content.replace(b"rXYZ", b"----", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"----", b"bXYZ", 1)


def save_pictures(folder):
    """Save pictures of odd kinds, and return their paths by name."""
    small, other = photograph(150, 120), photograph(150, 120).rotate(90)
    pictures = {
        "small.png": (photograph(32, 32), {}),
        "tall.png": (photograph(100, 401), {}),
        "wide.png": (photograph(515, 90), {}),
        "odd.png": (photograph(33, 32), {}),
        "pixel.png": (Image.new("RGB", (1, 1), (30, 90, 200)), {}),
        "line.png": (photograph(300, 1), {}),
        "huge.png": (photograph(5000, 4000), {"compress_level": 1}),
        "grey.png": (small.convert("L"), {}),
        "black-and-white.png": (small.convert("1"), {}),
        "16-bit.png": (deep(small), {}),
        "palette.png": (small.quantize(64), {}),
        "transparent-palette.png": (small.quantize(8), {"transparency": 3}),
        "alpha.png": (with_alpha(small.copy()), {}),
        "profile.png": (small, {"icc_profile": swapping()}),
        "turned.png": (photograph(60, 100), {"exif": turned(8)}),
        "turned.jpg": (photograph(301, 200), {"exif": turned(6)}),
        "mirrored.jpg": (photograph(100, 120), {"exif": turned(7)}),
        "huge.jpg": (photograph(4000, 3000), {}),
        "progressive.jpg": (small, {"progressive": True, "quality": 95}),
        "cmyk.jpg": (photograph(500, 300).convert("CMYK"), {}),
        "grey.jpg": (small.convert("L"), {}),
        "profile.jpg": (small, {"icc_profile": swapping()}),
        "lossless.webp": (with_alpha(small.copy()), {"lossless": True}),
        "lossy.webp": (small, {}),
        "animated.gif": (small, {"save_all": True, "append_images": [other]}),
        "picture.bmp": (small, {}),
        "picture.avif": (small, {}),
    }
    for name, (image, options) in pictures.items():
        image.save(folder / name, **options)
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(PHOTOGRAPHS / name, folder / name)
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the folder of the shipped model's page."""
    folder = tmp_path_factory.mktemp("served") / "sub" / "path"
    command = [ONNX_PYTHON, "-m", "jaxresnet.export", "--format=web", f"--out={folder}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def shown(exported, tmp_path_factory):
    """Show pictures to the page in Chromium. Return their paths, the page's address and what ``drive.mjs`` found."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    needed = (
        "install Chromium and Node.js (on Debian: apt-get install chromium nodejs npm); npm ci --prefix=tests/browser"
    )
    assert chromium and shutil.which("node") and (BROWSER / "node_modules").is_dir(), needed
    pictures = save_pictures(tmp_path_factory.mktemp("pictures"))
    broken = tmp_path_factory.mktemp("broken") / "broken.png"
    broken.write_text("no picture")
    handler = functools.partial(QuietHandler, directory=exported.parents[1])
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://localhost:{server.server_port}/sub/path/"
        screenshots = tmp_path_factory.mktemp("screenshots")
        command = ["node", BROWSER / "drive.mjs", chromium, url, screenshots, *pictures.values(), broken]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return pictures, url, json.loads(done.stdout)


@pytest.fixture(scope="module")
def classifier():
    return jaxresnet.load()


def probabilities_of(answer):
    return np.array([answer["bars"][name] for name in CIFAR10_CLASSES])


@pytest.mark.reliability
def test_browser_answers_as_predict(shown, classifier):
    """Pixels differ in JPEGs alone, because Pillow decodes large ones at a smaller size, which browsers cannot."""
    pictures, _, found = shown
    assert len(pictures) >= 20
    expected = {name: read_image(path)[0] for name, path in pictures.items()}
    probabilities = classifier.probabilities(np.stack([*expected.values()]))
    for row, (name, pixels) in zip(probabilities, expected.items(), strict=True):
        answer, is_jpeg = found["pictures"][name], name.endswith(".jpg")
        seen = np.reshape(answer["pixels"], pixels.shape)
        assert np.abs(seen - pixels).max() <= (2 if is_jpeg else 0), name
        np.testing.assert_allclose(probabilities_of(answer), row, rtol=0, atol=0.01 if is_jpeg else 1e-5, err_msg=name)
        assert answer["answer"] == f"{CIFAR10_CLASSES[row.argmax()]}, {100 * probabilities_of(answer).max():.1f}%"
        assert answer["error"] == "" and answer["time"].endswith(" ms.")
    assert "cannot open broken.png" in found["pictures"]["broken.png"]["error"]


@pytest.mark.reliability
def test_every_input_is_answered(shown, classifier):
    """Examples and switches by keyboard, files dropped and pasted, and the camera."""
    _, _, found = shown
    expected = classifier.probabilities(EXAMPLES)
    for answers in (found["examples"], [found["first"]], [found["drop"]], [found["paste"]]):
        given = np.stack([probabilities_of(answer) for answer in answers])
        np.testing.assert_allclose(given, expected[: len(given)], rtol=0, atol=1e-5)
    views = classifier.logits(np.stack([EXAMPLES[-1], EXAMPLES[-1][:, ::-1]]))
    (mean,) = classifier.to_probabilities(views.mean(0, keepdims=True))
    np.testing.assert_allclose(probabilities_of(found["mirrored"]), mean, rtol=0, atol=1e-5)
    assert np.abs(mean - expected[-1]).max() > 1e-3
    pressed = CIFAR10_CLASSES[np.argsort(-expected[-1])[1]]
    assert found["pressed"] == [pressed] and found["explained"] == pressed
    camera = np.array(found["camera"]["pixels"])
    assert found["camera"]["error"] == "" and camera.std() > 10 and camera.tolist() != found["paste"]["pixels"]


@pytest.mark.reliability
def test_page_fits_and_loads_nothing_foreign(shown):
    """Also at 1280, 768 and 390 pixels, light and dark, before and after pictures."""
    _, url, found = shown
    assert found["console"] == [] and found["overflows"] == []
    assert len(found["requests"]) >= 8 and all(each.startswith((url, "blob:")) for each in found["requests"])
    assert found["colours"]["light"] != found["colours"]["dark"]
