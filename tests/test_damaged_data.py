"""Images and weights that users have: damaged, random and miscounted files are refused in one line or read rightly."""

import io
import json
import pickle
import shutil
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

from jaxresnet import cifar10, cifar10_download, datasets
from jaxresnet.cifar10 import load_pickle
from jaxresnet.errors import UserError
from jaxresnet.images import read_image
from jaxresnet.sources import UNLABELLED, FileReader
from jaxresnet.torch_files import read_torch_file
from tests.conftest import REPOSITORY
from tests.damage import DAMAGED, damaged, few_images, read_or_refuse, replace
from tests.test_datasets import load, needs_cifar10, official_archive, save_npz, small_arrays

pytestmark = pytest.mark.reliability

RNG = np.random.default_rng(0)
BATCHES = (*cifar10.TRAIN_BATCHES, cifar10.TEST_BATCH)
IMAGES = {name: RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for name in BATCHES}
LABELS = {name: RNG.integers(0, 10, 3).tolist() for name in BATCHES}


def split_of(names):
    labels = [label for name in names for label in LABELS[name]]
    return datasets.Split(np.concatenate([IMAGES[name] for name in names]), np.int32(labels))


FINGERPRINT_OF_FEW = datasets.Dataset(split_of(cifar10.TRAIN_BATCHES), split_of([cifar10.TEST_BATCH])).fingerprint()


def assert_a_data_set(dataset, num_classes=10):
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == (32, 32, 3)
        assert split.labels.dtype == np.int32 and split.labels.shape == (len(split.images),) and len(split) > 0
        assert split.labels.min() >= 0 and split.labels.max() < num_classes


def assert_images(read):
    assert read.images.dtype == np.uint8 and read.images.shape[1:] == (32, 32, 3) and len(read.images) > 0
    if read.labels is not None:
        assert read.labels.shape == (len(read.images),) and read.labels.dtype.kind in "iu" and read.labels.min() >= 0
    assert read.ids is None or [type(each) for each in read.ids] == [str] * len(read.images)


# .npz files.


def npz_bytes(save=np.savez, **arrays):
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


NPZ = small_arrays(train=4, test=2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@given(data=st.data())
def test_a_damaged_npz_is_refused_or_read_as_it_was(save, data, tmp_path_factory, count):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(data.draw(damaged(npz_bytes(save, **NPZ))))
    dataset = read_or_refuse(load, path)
    if dataset:
        np.testing.assert_array_equal(dataset.train.images, NPZ["train_images"])
        np.testing.assert_array_equal(dataset.train.labels, NPZ["train_labels"])
        np.testing.assert_array_equal(dataset.test.images, NPZ["test_images"])
        np.testing.assert_array_equal(dataset.test.labels, NPZ["test_labels"])
    count(DAMAGED)


@pytest.mark.parametrize(
    ("header", "other"), [(b"'<i8'", b"'<i4'"), (b"'<i8'", b"'<i1'"), (b"(4, 32", b"(1, 32"), (b"'<i8'", b"'<m8'")]
)
def test_a_header_that_says_less_than_there_is_is_refused(tmp_path, header, other):
    """NumPy alone stops reading before it comes to the checksum, and returns other labels."""
    content = npz_bytes(**NPZ)
    assert header in content
    (tmp_path / "data.npz").write_bytes(content.replace(header, other))
    with pytest.raises(UserError, match="a damaged one"):
        load(tmp_path / "data.npz")


DTYPES = st.sampled_from(["u1", "i1", "<i2", ">i4", "<i8", "<u8", "f2", "f8", "c8", "?", "S3", "U2", "M8[s]", "m8[s]"])
COUNTS = st.integers(0, 4)


@given(data=st.data())
def test_npz_of_any_types_shapes_and_labels(data, tmp_path_factory, count):
    arrays = {}
    for split in ("train", "test"):
        shape = data.draw(
            st.tuples(COUNTS, st.just(32), st.just(32), st.just(3)) | st.lists(COUNTS | st.just(32), max_size=5)
        )
        arrays[f"{split}_images"] = np.zeros(shape, data.draw(st.just("u1") | DTYPES))
        labels = data.draw(st.lists(st.integers(-2, 300), max_size=4) | st.just([3] * (shape[0] if shape else 1)))
        arrays[f"{split}_labels"] = np.array(labels, np.int64).astype(data.draw(st.just("<i8") | DTYPES))
    path = tmp_path_factory.getbasetemp() / "any.npz"
    np.savez(path, **arrays)
    dataset = read_or_refuse(load, path)
    if dataset:
        assert_a_data_set(dataset)
        for split in ("train", "test"):
            np.testing.assert_array_equal(getattr(dataset, split).labels, arrays[f"{split}_labels"])
    count(DAMAGED)


def test_times_are_no_labels(tmp_path):
    with pytest.raises(UserError, match="expected integers"):
        load(save_npz(tmp_path, train_labels=np.array([1] * 20, "m8[s]")))


# Pickles: CIFAR-10's batches, and those that predict reads.


def batch_of(name, protocol):
    images = IMAGES[name].transpose(0, 3, 1, 2).reshape(3, 3072)
    return pickle.dumps({b"data": images, b"labels": LABELS[name], b"filenames": [b"a"] * 3}, protocol=protocol)


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pytorch") / cifar10.BATCHES_FOLDER
    folder.mkdir()
    for name in BATCHES:
        (folder / name).write_bytes(batch_of(name, 2))
    return folder


def test_the_small_batches_are_read(batches):
    with few_images():
        assert load(batches).fingerprint() == FINGERPRINT_OF_FEW


@given(data=st.data(), protocol=st.integers(0, 5))
def test_a_damaged_batch_is_refused_or_holds_what_a_batch_does(data, protocol, batches, count):
    replace(batches / "data_batch_3", data.draw(damaged(batch_of("data_batch_3", protocol))))
    with few_images():
        dataset = read_or_refuse(load, batches)
    replace(batches / "data_batch_3", batch_of("data_batch_3", 2))
    if dataset:
        assert_a_data_set(dataset)
        assert (len(dataset.train), len(dataset.test)) == (15, 3)
        kept = np.r_[0:6, 9:15]
        others = [IMAGES[name] for name in cifar10.TRAIN_BATCHES if name != "data_batch_3"]
        np.testing.assert_array_equal(dataset.train.images[kept], np.concatenate(others))
        np.testing.assert_array_equal(dataset.test.images, IMAGES["test_batch"])
    count(DAMAGED)


PLAIN = st.none() | st.integers(-3, 12) | st.floats() | st.text(max_size=3) | st.binary(max_size=3) | st.just(2**70)
ARRAY = st.builds(
    lambda shape, dtype: np.zeros(shape, dtype),
    st.tuples(COUNTS, st.just(3072)) | st.tuples(COUNTS) | st.lists(COUNTS, max_size=3),
    DTYPES,
)
LIST = st.lists(PLAIN, max_size=4) | st.lists(st.integers(0, 12), max_size=4) | st.tuples(PLAIN, PLAIN)


@given(
    batch=st.dictionaries(st.sampled_from([b"data", "data", b"labels", b"ids", "x", 1]), PLAIN | ARRAY | LIST | ARRAY),
    protocol=st.integers(0, 5),
)
def test_pickles_with_anything_in_them(batch, protocol, tmp_path_factory, count):
    path = tmp_path_factory.getbasetemp() / "anything.pkl"
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    read = read_or_refuse(load_pickle, path)
    if read:
        assert_images(read)
    count(DAMAGED)


@given(data=st.data(), protocol=st.integers(0, 5), ids=st.sampled_from([["a", "b", "c"], np.arange(3), [b"1", 2, "3"]]))
def test_predict_names_damaged_pickles_or_reads_them(data, protocol, ids, tmp_path_factory, capsys, count):
    images = IMAGES["test_batch"].transpose(0, 3, 1, 2)
    content = pickle.dumps({b"data": images, b"labels": LABELS["test_batch"], b"ids": ids}, protocol=protocol)
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(data.draw(damaged(content)))
    read = list(FileReader([path], 10).batches(2))
    printed = capsys.readouterr().err.splitlines()
    if not read:
        assert len(printed) == 1 and printed[0].startswith("left out: ")
    for batch in read:
        assert batch.pixels.dtype == np.uint8 and batch.pixels.shape[1:] == (32, 32, 3)
        assert len(batch.names) == len(batch.ids) == len(batch.pixels) == len(batch.labels) <= 2
        assert all((0 <= label < 10) or label == UNLABELLED for label in batch.labels.tolist())
    count(DAMAGED)


def test_an_array_of_objects_with_a_wrong_count_is_refused(tmp_path):
    """NumPy's own unpickling reads beyond the list, and the program crashes."""
    content = pickle.dumps({b"data": np.array([None] * 3)}, protocol=2)
    assert content.count(b"K\x03\x85") == 1
    with pytest.raises(UserError, match="a damaged one"):
        read_content(tmp_path, content.replace(b"K\x03\x85", b"M\xff\xff\x85"))


def test_an_array_that_holds_nothing_is_not_read_from_uninitialised_memory(tmp_path):
    with pytest.raises(UserError, match="a damaged one"):
        read_content(tmp_path, pickle.dumps({b"data": Asks(np.ndarray, (2, 3072), "u1")}))


def test_lists_that_hold_themselves_are_refused(tmp_path):
    endless = []
    endless += [endless, endless]
    for batch in ({b"data": endless}, {b"data": IMAGES["test_batch"], b"labels": endless}):
        with pytest.raises(UserError, match="a damaged one"):
            read_content(tmp_path, pickle.dumps(batch))


def read_content(folder, content):
    (folder / "content.pkl").write_bytes(content)
    return load_pickle(folder / "content.pkl")


class Asks:
    """A pickle of this calls ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# tfds's folders.


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A version's folder of tfds with few images."""
    folder = tmp_path_factory.mktemp("tfds")
    official_archive(
        folder / "archive.tar.gz", {name: list(zip(LABELS[name], IMAGES[name], strict=True)) for name in BATCHES}
    )
    cifar10_download._write_tfds(folder / "archive.tar.gz", folder)
    return cifar10.find_tfds(folder)


@given(data=st.data())
def test_damaged_records_are_refused_or_read_as_they_were(data, tfds_folder, tmp_path_factory, monkeypatch, count):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "small cache"))
    copy = tmp_path_factory.getbasetemp() / "cifar10" / tfds_folder.name
    shutil.copytree(tfds_folder, copy, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(sorted(file.name for file in copy.iterdir())))
    (copy / name).write_bytes(data.draw(damaged((tfds_folder / name).read_bytes())))
    with few_images():
        dataset = read_or_refuse(load, copy)
    assert dataset is None or dataset.fingerprint() == FINGERPRINT_OF_FEW
    count(DAMAGED)


@given(data=st.data())
def test_a_damaged_cache_is_made_anew_whatever_the_damage(data, tfds_folder, tmp_path_factory, monkeypatch, count):
    caches = tmp_path_factory.getbasetemp() / "one cache"
    shutil.rmtree(caches, ignore_errors=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    with few_images():
        assert load(tfds_folder).fingerprint() == FINGERPRINT_OF_FEW
        (cache,) = caches.rglob("*.npz")
        whole = cache.read_bytes()
        other = npz_bytes(**data.draw(st.sampled_from([small_arrays(), {}, {"train_images": np.zeros(3)}])))
        cache.write_bytes(data.draw(damaged(whole) | st.just(other)))
        assert load(tfds_folder).fingerprint() == FINGERPRINT_OF_FEW
        assert cifar10.read_npz(cache, cifar10.ARRAYS).keys() == set(cifar10.ARRAYS)
    count(DAMAGED)


def test_where_no_cache_can_be_written_the_images_are_read_all_the_same(tfds_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "jaxresnet").write_text("a file in the place of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with few_images():
        assert load(tfds_folder).fingerprint() == FINGERPRINT_OF_FEW
    assert "note: the decoded images could not be kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [{}, {"image": 1}, {"id": "test_00001"}, {"id": "test_3"}, {"id": "x"}, {"label": 11}]
)
def test_records_that_are_no_cifar10_are_refused(tfds_folder, tmp_path, monkeypatch, change):
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image, text, number = tfds.features.Image(shape=(None, None, 3)), tfds.features.Text(), np.int64
    features = tfds.features.FeaturesDict({"id": text, "image": image, "label": number})
    copy = shutil.copytree(tfds_folder, tmp_path / "cifar10" / tfds_folder.name)
    (file,) = copy.glob("*test*")
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for index in range(3):
        example = {"id": f"test_{index:05d}", "image": 32, "label": index} | (change if index == 2 else {})
        picture = io.BytesIO()
        Image.fromarray(IMAGES["test_batch"][index, : example["image"], : example["image"]]).save(picture, "PNG")
        picture.seek(0)
        writer.write(features.serialize_example(example | {"image": picture}))
    writer.close()
    with few_images():
        dataset = read_or_refuse(load, tmp_path)
    assert (dataset is None) == bool(change)
    if dataset:
        np.testing.assert_array_equal(dataset.test.images, IMAGES["test_batch"])


# The note on images that are not CIFAR-10's own.


def test_images_that_are_not_cifar10s_own_are_noted_and_the_checksum_is_computed_once(
    batches, tmp_path, capsys, monkeypatch
):
    computed = []
    crc32 = datasets.zlib.crc32
    monkeypatch.setattr("jaxresnet.datasets.zlib.crc32", lambda *arguments: computed.append(1) or crc32(*arguments))
    with few_images():
        dataset = load(batches)
    expected = (
        f"note: these images and labels are not CIFAR-10's own (checksum {dataset.fingerprint()}, expected "
        f"{cifar10.FINGERPRINT}); where they should be, unpack the archive again\n"
    )
    assert capsys.readouterr().err == expected and len(computed) == 4
    load(save_npz(tmp_path))  # of another number of images
    load(name="digits")
    assert capsys.readouterr().err == ""


@needs_cifar10
def test_of_cifar10_itself_nothing_is_noted(capsys):
    assert load().fingerprint() == cifar10.FINGERPRINT
    assert "note" not in capsys.readouterr().err


# Image files.


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


@pytest.mark.filterwarnings("ignore")  # Pillow's, which FileReader leaves out
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
    """Its warnings are two lines each, and name a file of its own."""
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
        if name == "zip.pth":  # which has checksums
            assert_the_checkpoint(read)
    count(DAMAGED)


def test_a_changed_weight_in_an_archive_is_refused(tmp_path):
    """PyTorch alone does not look at an archive's checksums."""
    stored = WEIGHTS["conv1.weight"].numpy().tobytes()
    (tmp_path / "w.pth").write_bytes(TORCH_FILES["zip.pth"].replace(stored, stored[:-1] + b"\0"))
    with pytest.raises(UserError, match="a damaged one"):
        read_torch_file(tmp_path / "w.pth")


def test_an_archive_whose_directory_calls_weights_a_folder_is_read_rightly(tmp_path):
    """PyTorch alone takes the weights from uninitialised memory."""
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


HUGE = {
    "shape.npz": huge_npz(),
    "shape.pkl": pickle.dumps({b"data": Asks(np.ndarray, (10**6, 3072), "u1")}),
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
from jaxresnet.cifar10 import load_pickle
from jaxresnet.datasets import load_dataset
from jaxresnet.errors import UserError
from jaxresnet.images import read_image
from jaxresnet.torch_files import read_torch_file
for path in map(pathlib.Path, sys.argv[1:]):
    read = {".npz": lambda path: load_dataset("cifar10", str(path), 10), ".pkl": load_pickle}.get(path.suffix)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        (read or (read_torch_file if path.suffix == ".safetensors" else read_image))(path)
    except UserError:
        print(path.name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is counted in other units")
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
