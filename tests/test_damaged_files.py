"""Damaged files of every kind are refused in one line or read rightly."""

import contextlib
import io
import pathlib
import pickle
import types

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st
from PIL import Image

from jaxresnet.convert import read_torch_file
from jaxresnet.data import cifar
from jaxresnet.data.images import read_image
from jaxresnet.predict import read_files
from jaxresnet.system.errors import UserError
from tests import damage
from tests.damage import DAMAGED, IMAGES
from tests.data.test_damaged_data import NPZ, assert_a_data_set, npz_bytes
from tests.data.test_loading import load
from tests.test_convert import ARCHIVE, CHECKPOINT, WEIGHTS, assert_the_checkpoint, saved
from tests.torch_reference import needs_torch, torch
from tests.workdir.test_damaged_run_files import READERS, small_files

pytestmark = pytest.mark.reliability


def alone(name, *contents):
    """Return the originals of a file that needs no others: each of ``contents``."""
    return lambda folder, request: [(folder / name, content) for content in contents]


def in_folder(read):
    return lambda path: read(path.parent)


# Data sets.


def assert_npz(dataset):
    np.testing.assert_array_equal(dataset.train.images, NPZ["train_images"])
    np.testing.assert_array_equal(dataset.train.labels, NPZ["train_labels"])
    np.testing.assert_array_equal(dataset.test.images, NPZ["test_images"])
    np.testing.assert_array_equal(dataset.test.labels, NPZ["test_labels"])


def one_of_the_batches(folder, request):
    path = damage.write_batches(folder / cifar.CIFAR10.archives[0].folder) / "data_batch_3"
    return [(path, damage.batch_of(path.name, protocol)) for protocol in range(6)]


def assert_batches(dataset):
    assert_a_data_set(dataset)
    assert (len(dataset.train), len(dataset.test)) == (15, 3)
    kept = np.r_[0:6, 9:15]
    others = [IMAGES[name] for name in damage.TRAIN_BATCHES if name != "data_batch_3"]
    np.testing.assert_array_equal(dataset.train.images[kept], np.concatenate(others))
    np.testing.assert_array_equal(dataset.test.images, IMAGES["test_batch"])


def files_of_tfds(folder, request):
    return [(path, path.read_bytes()) for path in sorted(damage.write_tfds(folder).iterdir())]


def assert_few(dataset):
    assert dataset.fingerprint() == damage.FINGERPRINT_OF_FEW


def cache_of_tfds(folder, request):
    with damage.few_images():
        assert_few(load(damage.write_tfds(folder)))
    (path,) = (folder / "cache").rglob("*.npz")
    return [(path, path.read_bytes())]


def assert_rewritten(path):
    assert_few(load(path.parents[2]))
    assert cifar.read_npz(path).keys() == {*cifar.ARRAYS, "class_names"}


# Pickles and pictures to predict.

IDS = (["a", "b", "c"], np.arange(3), [b"1", 2, "3"])
TEST = {b"data": IMAGES["test_batch"].transpose(0, 3, 1, 2), b"labels": damage.LABELS["test_batch"]}
PICKLES = [pickle.dumps(TEST | {b"ids": ids}, protocol=protocol) for ids in IDS for protocol in range(6)]


def assert_skipped_or_read(path):
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        read = list(read_files([path], 10, types.SimpleNamespace(total=1)))
    printed = stderr.getvalue().splitlines()
    if not read:
        assert len(printed) == 1 and printed[0].startswith("skipped: ")
    for image in read:
        assert image.pixels.dtype == np.uint8 and image.pixels.shape == (32, 32, 3)
        assert image.label is None or 0 <= image.label < 10


def image_bytes(image_format, mode="RGB", **options):
    content = io.BytesIO()
    Image.fromarray(IMAGES["test_batch"][0].repeat(2, 0)).convert(mode).save(content, image_format, **options)
    return content.getvalue()


FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP", "AVIF", "ICO", "PPM", "TGA", "DDS")
PICTURES = {
    **{image_format: image_bytes(image_format) for image_format in FORMATS},
    "PNG with a palette": image_bytes("PNG", "P"),
    "PNG with transparency": image_bytes("PNG", "RGBA"),
    "GIF, animated": image_bytes("GIF", save_all=True, append_images=[Image.new("RGB", (32, 64), "red")]),
    "TIFF, LZW": image_bytes("TIFF", compression="tiff_lzw"),
    "ICNS": image_bytes("ICNS", "RGBA"),
}


def assert_a_picture(read):
    pixels, notes = read
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8 and not any("\n" in note for note in notes)


# PyTorch's files, and the small files of a run.

LEGACY = torch and saved(CHECKPOINT, _use_new_zipfile_serialization=False)
SAFETENSORS = torch and safetensors.numpy.save({key: WEIGHTS[key].float().numpy() for key in WEIGHTS})


def assert_weights(read):
    assert all(isinstance(array, np.ndarray) for array in read.state_dict.values())
    assert read.accuracy is None or np.isfinite(read.accuracy)


def assert_the_same_weights(read):
    assert_weights(read)
    assert_the_checkpoint(read)


def file_of_a_run(name):
    def originals(folder, request):
        path = small_files(request.getfixturevalue("quickstart_run"), folder) / name
        return [(path, path.read_bytes())]

    return originals


# A case is (originals, reader, check). ``originals`` writes all that the reader needs, and returns the path and content
# of each file to damage. Each example damages one. ``check`` gets what the reader returns. If the reader must never
# refuse, ``check`` calls it.
CASES = {
    "npz": (alone("a.npz", npz_bytes(**NPZ)), load, assert_npz),
    "npz, compressed": (alone("a.npz", npz_bytes(np.savez_compressed, **NPZ)), load, assert_npz),
    "batch": (one_of_the_batches, in_folder(load), assert_batches),
    "tfds": (files_of_tfds, in_folder(load), assert_few),
    "cache": (cache_of_tfds, pathlib.Path, assert_rewritten),
    "pickle": (alone("a.pkl", *PICKLES), pathlib.Path, assert_skipped_or_read),
    **{kind: (alone("image", content), read_image, assert_a_picture) for kind, content in PICTURES.items()},
    "zip.pth": (alone("w.pth", ARCHIVE), read_torch_file, assert_the_same_weights),  # Only this format has checksums.
    "legacy.pth": (alone("w.pth", LEGACY), read_torch_file, assert_weights),
    "safetensors": (alone("w.safetensors", SAFETENSORS), read_torch_file, assert_weights),
    **{name: (file_of_a_run(name), in_folder(read), check) for name, (read, check) in READERS.items()},
}


@pytest.mark.filterwarnings("ignore")  # read_images silences Pillow's warnings.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[needs_torch] * name.endswith((".pth", "safetensors"))) for name in CASES],
)
def test_damaged_file_gets_one_line(name, tmp_path, monkeypatch, request, count):
    originals, read, check = CASES[name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = originals(tmp_path, request)
    default = hypothesis.settings.default

    @hypothesis.settings(max_examples=max(5, default.max_examples // (5 if name in PICTURES else 1)))
    @hypothesis.given(data=st.data())
    def fuzz(data):
        path, content = data.draw(st.sampled_from(files))
        damage.replace(path, data.draw(damage.damaged(content)))
        try:
            result = read(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            check(result)
        finally:
            damage.replace(path, content)
        count(DAMAGED)

    if default.derandomize:  # Otherwise all cases would draw the same damage.
        hypothesis.seed(name)(fuzz)
    with damage.few_images():
        fuzz()
