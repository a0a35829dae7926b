"""Image files and weights: damaged ones are refused in one line or read correctly.

Small files that claim to be large take no memory.
"""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxresnet.convert.files import read_torch_file
from jaxresnet.datasets import cifar10
from jaxresnet.predict.images import read_image
from jaxresnet.predict.inputs import FileReader
from jaxresnet.system.errors import UserError
from tests.conftest import REPOSITORY
from tests.damage import DAMAGED, IMAGES, RNG, Calls, damaged, read_or_refuse

pytestmark = pytest.mark.reliability


def image_bytes(image_format, mode="RGB", **options):
    content = io.BytesIO()
    Image.fromarray(IMAGES["test_batch"][0].repeat(2, 0)).convert(mode).save(content, image_format, **options)
    return content.getvalue()


PICTURES = {
    "PNG": image_bytes("PNG"),
    "PNG with a palette": image_bytes("PNG", "P"),
    "PNG with transparency": image_bytes("PNG", "RGBA"),
    "JPEG": image_bytes("JPEG"),
    "JPEG 2000": image_bytes("JPEG2000"),
    "GIF, animated": image_bytes("GIF", save_all=True, append_images=[Image.new("RGB", (32, 64), "red")]),
    "TIFF": image_bytes("TIFF"),
    "TIFF, LZW": image_bytes("TIFF", compression="tiff_lzw"),
    "BMP": image_bytes("BMP"),
    "WebP": image_bytes("WEBP"),
    "AVIF": image_bytes("AVIF"),
    "ICO": image_bytes("ICO"),
    "PPM": image_bytes("PPM"),
    "TGA": image_bytes("TGA"),
    "DDS": image_bytes("DDS"),
    "ICNS": image_bytes("ICNS", "RGBA"),
}


@pytest.mark.filterwarnings("ignore")  # Pillow's warnings, which FileReader silences
@pytest.mark.parametrize("kind", PICTURES)
@hypothesis.settings(max_examples=max(5, hypothesis.settings.default.max_examples // 5))
@given(data=st.data())
def test_a_damaged_image_is_refused_or_32x32_pixels(kind, data, tmp_path_factory, count):
    path = tmp_path_factory.getbasetemp() / "damaged.image"
    path.write_bytes(data.draw(damaged(PICTURES[kind])))
    read = read_or_refuse(read_image, path)
    if read:
        pixels, notes = read
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8 and not any("\n" in note for note in notes)
    count(DAMAGED)


def test_what_pillow_warns_of_is_not_printed(tmp_path, capsys):
    """Each warning would take two lines, and name one of Pillow's own files."""
    (tmp_path / "a.im").write_bytes(image_bytes("IM"))
    assert len(list(FileReader([tmp_path / "a.im"], 10).batches(1))) == 1
    assert capsys.readouterr().err.splitlines() == [f"note: resized to 32x32 from its central square: {tmp_path}/a.im"]


# PyTorch's files.

WEIGHTS = {
    "conv1.weight": torch.from_numpy(RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)),
    "bn1.num_batches_tracked": torch.tensor(3),
    "linear.bias": torch.ones(5, dtype=torch.bfloat16),
}


def torch_bytes(contents, **options):
    content = io.BytesIO()
    torch.save(contents, content, **options)
    return content.getvalue()


CHECKPOINT = {"net": WEIGHTS, "acc": np.float64(93.25), "epoch": 3}
TORCH_FILES = {
    "zip.pth": torch_bytes(CHECKPOINT),
    "legacy.pth": torch_bytes(CHECKPOINT, _use_new_zipfile_serialization=False),
    "w.safetensors": safetensors.numpy.save({key: WEIGHTS[key].float().numpy() for key in WEIGHTS}),
}


def assert_the_checkpoint(read):
    assert (read.epochs, read.accuracy) == (4, 93.25) and read.state_dict.keys() == WEIGHTS.keys()
    for key, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(read.state_dict[key].astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("name", TORCH_FILES)
@given(data=st.data())
def test_damaged_weights_are_refused_or_arrays(name, data, tmp_path_factory, count):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data.draw(damaged(TORCH_FILES[name])))
    read = read_or_refuse(read_torch_file, path)
    if read:
        assert all(isinstance(array, np.ndarray) for array in read.state_dict.values())
        assert read.epochs is None or (type(read.epochs) is int and read.epochs >= 0)
        assert read.accuracy is None or np.isfinite(read.accuracy)
        if name == "zip.pth":  # the only format with checksums
            assert_the_checkpoint(read)
    count(DAMAGED)


def test_a_changed_weight_in_an_archive_is_refused(tmp_path):
    """PyTorch itself does not check an archive's checksums."""
    stored = WEIGHTS["conv1.weight"].numpy().tobytes()
    (tmp_path / "w.pth").write_bytes(TORCH_FILES["zip.pth"].replace(stored, stored[:-1] + b"\0"))
    with pytest.raises(UserError, match="a damaged one"):
        read_torch_file(tmp_path / "w.pth")


def test_an_archive_whose_directory_calls_weights_a_folder_is_read_rightly(tmp_path):
    """PyTorch itself takes the weights from uninitialised memory."""
    content = bytearray(TORCH_FILES["zip.pth"])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data/0"))
    content[content.rindex(name.encode()) - 46 + 38] |= 0x10
    (tmp_path / "w.pth").write_bytes(content)
    assert_the_checkpoint(read_torch_file(tmp_path / "w.pth"))


@pytest.mark.parametrize("accuracy", [10**400, torch.empty((), device="meta"), float("nan"), "93", True])
def test_an_accuracy_that_is_none_is_left_out(tmp_path, accuracy):
    torch.save({"net": WEIGHTS, "acc": accuracy}, tmp_path / "w.pth")
    assert read_torch_file(tmp_path / "w.pth").accuracy is None


# Small files that claim to be large.


def huge_npz():
    content = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 32, 32, 3)})
    with zipfile.ZipFile(content, "w") as archive:
        for name in cifar10.ARRAYS:
            archive.writestr(f"{name}.npy", header.getvalue() + b"few")
    return content.getvalue()


def huge_safetensors(shape, end):
    header = json.dumps({"conv1.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header


def huge_pickle(opcode):
    return b"\x80\x04}\x94C\x04data" + opcode + b"s."


def huge_pth():
    """Return a compressed file whose last entry is 1 GB of zeros. PyTorch itself never compresses."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(TORCH_FILES["zip.pth"])) as archive,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as compressed,
    ):
        for name in archive.namelist():
            compressed.writestr(name, archive.read(name))
        with compressed.open("archive/data/99", "w") as entry:
            for _ in range(1000):
                entry.write(bytes(10**6))
    return content.getvalue()


HUGE = {
    "zeros.pth": huge_pth(),
    "shape.npz": huge_npz(),
    "shape.pkl": pickle.dumps({b"data": Calls(np.ndarray, (10**6, 3072), "u1")}),
    "bytes.pkl": huge_pickle(b"\x8e" + struct.pack("<Q", 10**10) + b"few"),
    "bytearray.pkl": huge_pickle(b"\x96" + struct.pack("<Q", 10**10) + b"few"),
    "memo.pkl": huge_pickle(b"Nr" + struct.pack("<I", 10**9)),
    "memo as text.pkl": huge_pickle(b"Np1000000000\n"),
    "names.pkl": pickle.dumps({b"data": np.zeros((1000, 3072), "u1"), b"ids": ["a" * 10**6] * 999}),
    "shape.safetensors": huge_safetensors([10**9], 4 * 10**9),
    "header.safetensors": struct.pack("<Q", 10**10) + b"{}",
    "size.png": image_bytes("PNG").replace(struct.pack(">II", 32, 64), struct.pack(">II", 40_000, 40_000)),
    "size.bmp": image_bytes("BMP").replace(struct.pack("<II", 32, 64), struct.pack("<II", 40_000, 40_000)),
    "size.gif": image_bytes("GIF").replace(struct.pack("<HH", 32, 64), struct.pack("<HH", 40_000, 40_000)),
}

MEASURE = """
import pathlib, resource, sys
import torch
from jaxresnet.datasets.cifar10 import load_pickle
from jaxresnet.datasets import load_dataset
from jaxresnet.system.errors import UserError
from jaxresnet.predict.images import read_image
from jaxresnet.convert.files import read_torch_file
for path in map(pathlib.Path, sys.argv[1:]):
    read = {".npz": lambda path: load_dataset("cifar10", str(path), 10), ".pkl": load_pickle}.get(path.suffix)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        (read or (read_torch_file if path.suffix in (".safetensors", ".pth") else read_image))(path)
    except UserError:
        print(path.name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_small_files_that_claim_to_be_large_are_refused_and_take_no_memory(tmp_path, subprocess_environment, count):
    for name, content in HUGE.items():
        assert len(content) < 10_000_000
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *(tmp_path / name for name in HUGE)]
    done = subprocess.run(
        command, env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    megabytes = {name: int(size) for name, _, size in (line.rpartition(" ") for line in done.stdout.splitlines())}
    assert megabytes.keys() == HUGE.keys() and max(megabytes.values()) < 100, megabytes
    count(DAMAGED, len(HUGE))
