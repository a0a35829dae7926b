"""Sources of images, whole and damaged."""

import functools
import hashlib
import http.server
import io
import json
import os
import pathlib
import pickle
import shutil
import socket
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from jaxresnet.data import batches, cifar, download, loading
from jaxresnet.system.errors import UserError

TFDS_DATA_DIR = os.environ.get("TFDS_DATA_DIR")
needs_cifar10 = pytest.mark.skipif(
    not TFDS_DATA_DIR, reason="set TFDS_DATA_DIR to a tfds folder that holds cifar10, to test the real images"
)


def load(data_dir=None, name="cifar10", num_classes=10):
    return loading.load_dataset(name, data_dir and str(data_dir), num_classes)


def small_arrays(train=20, test=10):
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (train, 32, 32, 3), dtype=np.uint8),
        "train_labels": np.arange(train) % 10,
        "test_images": rng.integers(0, 256, (test, 32, 32, 3), dtype=np.uint8),
        "test_labels": np.arange(test) % 10,
    }


def save_npz(folder, **changes):
    path = folder / "data.npz"
    np.savez(path, **{name: array for name, array in (small_arrays() | changes).items() if array is not None})
    return path


# The real data set.


@needs_cifar10
def test_the_real_cifar10():
    dataset = load()
    assert dataset.train.images.shape == (50_000, 32, 32, 3) and dataset.test.images.shape == (10_000, 32, 32, 3)
    assert dataset.train.images.dtype == np.uint8 and dataset.train.labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), np.full(10, 5_000))
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), np.full(10, 1_000))
    means = dataset.train.images.mean((0, 1, 2), dtype=np.float64) / 255
    np.testing.assert_allclose(means, (0.49139968, 0.48215841, 0.44653091), atol=5e-9)


@needs_cifar10
def test_the_second_start_decodes_nothing(monkeypatch):
    first = load()
    monkeypatch.setattr(cifar, "_decode_tfds", None)  # fails if it is called
    assert load().fingerprint() == first.fingerprint()


@pytest.mark.reliability
@needs_cifar10
def test_a_damaged_cache_is_made_anew(monkeypatch):
    fingerprint = load().fingerprint()
    (cache,) = pathlib.Path(os.environ["XDG_CACHE_HOME"], "jaxresnet").glob("*.npz")
    whole = cache.read_bytes()
    cache.write_bytes(whole[: len(whole) // 2])
    assert load().fingerprint() == fingerprint
    assert cache.read_bytes() == whole


@needs_cifar10
@pytest.mark.parametrize("damage", ["truncate", "zero", "remove", "tfrecord"])
def test_damaged_records_are_refused(tmp_path, damage):
    source = cifar.find_tfds(pathlib.Path(TFDS_DATA_DIR))
    folder = tmp_path / "cifar10" / source.name
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if "train" not in file.name:
            shutil.copy(file, folder)
    (train,) = source.glob("*train*")
    content = train.read_bytes()
    if damage == "truncate":
        (folder / train.name).write_bytes(content[: len(content) // 3])
    elif damage == "zero":
        (folder / train.name).write_bytes(content[: 1 << 20] + bytes(len(content) - (1 << 20)))
    elif damage == "tfrecord":
        for file in folder.glob("*array_record*"):
            file.rename(file.with_name(file.name.replace("array_record", "tfrecord")))
    with pytest.raises(UserError, match="array_record" if damage == "tfrecord" else "prepare CIFAR-10 again"):
        load(tmp_path)


# Digits.


def test_digits_are_rgb_images_split_the_same_way_each_time():
    first, second = load(name="digits"), load(name="digits")
    assert len(first.train) == 1797 - 360 and len(first.test) == 360
    assert first.train.images.shape[1:] == (32, 32, 3) and first.train.images.max() == 255
    assert first.fingerprint() == second.fingerprint()
    assert np.bincount(first.test.labels, minlength=10).min() >= 34


def test_unknown_names_and_a_data_dir_for_the_digits_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected one of cifar10, cifar100, digits"):
        load(name="cifar20")
    with pytest.raises(UserError, match="leave data_dir unset"):
        load(tmp_path, name="digits")


# .npz files.


def test_npz(tmp_path):
    dataset = load(save_npz(tmp_path))
    np.testing.assert_array_equal(dataset.train.images, small_arrays()["train_images"])
    np.testing.assert_array_equal(dataset.test.labels, small_arrays()["test_labels"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(test_labels=None), "lacks test_labels"),
        (dict(train_images=np.zeros((20, 3, 32, 32), np.uint8)), r"shape \(20, 3, 32, 32\): expected uint8"),
        (dict(train_images=np.zeros((20, 32, 32), np.uint8)), "expected uint8 of shape"),
        (dict(test_images=np.zeros((10, 32, 32, 3), np.float32)), "test images are float32"),
        (dict(test_images=np.zeros((0, 32, 32, 3), np.uint8), test_labels=np.zeros(0, int)), "test images"),
        (dict(train_labels=np.arange(19) % 10), r"expected integers of shape \(20,\)"),
        (dict(train_labels=np.zeros(20)), "labels are float64"),
        (dict(train_labels=np.arange(20)), "labels go from 0 to 19: expected 0 to 9"),
        (dict(test_labels=np.arange(10) - 1), "labels go from -1 to 8"),
        (dict(train_labels=np.array([object()] * 20)), "is not a .npz file, or is damaged"),
    ],
)
def test_npz_of_another_kind_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load(save_npz(tmp_path, **changes))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text", "npy"])
def test_damaged_npz_is_refused(tmp_path, damage):
    path = save_npz(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(3))
        content = buffer.getvalue()
    path.write_bytes({"truncate": content[: len(content) // 2], "empty": b"", "text": b"images"}.get(damage, content))
    with pytest.raises(UserError, match="or is damaged"):
        load(path)


def test_a_data_dir_that_is_missing_or_holds_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="holds no CIFAR-10"):
        load(tmp_path)


def test_a_npz_with_any_bit_flipped_is_read_as_it_was_or_refused(tmp_path):
    """NumPy's reader itself raises half a dozen different exceptions."""
    path = save_npz(tmp_path)
    whole, fingerprint = path.read_bytes(), load(path).fingerprint()
    rng = np.random.default_rng(0)
    # Headers and the archive's directory are few of many bytes, so they get half of the flips.
    headers = [i for start in range(0, len(whole)) if whole.startswith(b"PK", start) for i in range(start, start + 300)]
    positions = [*rng.integers(0, len(whole), 150), *rng.choice(headers, 150)]
    refused = 0
    for position in positions:
        damaged = bytearray(whole)
        damaged[min(position, len(whole) - 1)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            assert load(path).fingerprint() == fingerprint
        except UserError:
            refused += 1
    assert refused > 150


def test_what_tfds_left_incomplete_or_prepared_of_another_kind_is_no_cifar10(tmp_path):
    for folder in ("cifar10/incomplete.A2MNWR_3.0.2", "mnist/3.0.1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "dataset_info.json").write_text("{}")
    for data_dir in (tmp_path, tmp_path / "mnist" / "3.0.1"):
        with pytest.raises(UserError, match="holds no CIFAR-10"):
            load(data_dir)


@pytest.mark.parametrize("data_dir", ["x" * 300, "~nobody-of-that-name/data", "file.txt/below"])
def test_impossible_paths_are_refused(tmp_path, monkeypatch, data_dir):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError):
        load(data_dir)


# The pickled batches that PyTorch users have.


def batch_content(seed):
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"a batch",
        b"labels": rng.integers(0, 10, 10_000).tolist(),
        b"data": rng.integers(0, 256, (10_000, 3072), dtype=np.uint8),
        b"filenames": [b"frog.png"] * 10_000,
    }


@pytest.fixture(scope="module")
def pickled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pytorch") / batches.BATCHES_FOLDER
    folder.mkdir()
    for seed, name in enumerate((*batches.TRAIN_BATCHES, batches.TEST_BATCH)):
        (folder / name).write_bytes(pickle.dumps(batch_content(seed), protocol=4))
    return folder


@pytest.fixture
def damaged(pickled, tmp_path):
    """Return a function that replaces or removes one batch in a copy of linked files, and returns the copy."""
    for file in pickled.iterdir():
        (tmp_path / file.name).symlink_to(file)

    def replace(content):
        (tmp_path / "data_batch_3").unlink()
        if content is not None:
            (tmp_path / "data_batch_3").write_bytes(content)
        return tmp_path

    return replace


def test_batches_in_their_folder_or_the_one_above(pickled):
    for data_dir in (pickled, pickled.parent):
        dataset = load(data_dir)
        assert len(dataset.train) == 50_000 and len(dataset.test) == 10_000
        third = batch_content(2)
        np.testing.assert_array_equal(dataset.train.labels[20_000:30_000], third[b"labels"])
        # Batches store images channel by channel.
        np.testing.assert_array_equal(dataset.train.images[20_001, :, :, 1].ravel(), third[b"data"][1, 1024:2048])


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"not a pickle",
        pickle.dumps(batch_content(0), protocol=4)[:1_000_000],
        pickle.dumps([1, 2, 3]),
        pickle.dumps({b"data": np.zeros((10, 3072), np.uint8), b"labels": [0] * 10}, protocol=4),
        pickle.dumps({b"data": np.zeros((10_000, 3072)), b"labels": [0] * 10_000}, protocol=4),
        pickle.dumps({b"data": np.zeros((10_000, 3072), np.uint8), b"labels": [0] * 9_999}, protocol=4),
        pickle.dumps({b"data": np.zeros((10_000, 3072), np.uint8), b"labels": [11] * 10_000}, protocol=4),
    ],
    ids=["missing", "empty", "text", "truncated", "list", "short", "float", "labels", "range"],
)
def test_damaged_batches_are_refused(damaged, content):
    with pytest.raises(UserError):
        load(damaged(content))


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_does_not(damaged, tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="which no batch of CIFAR-10 does"):
        load(damaged(pickle.dumps({b"data": RunsCode(), b"labels": []}, protocol=protocol)))
    assert not (tmp_path / "executed").exists()


# Images by class.


def save_folders(folder, classes=("cat", "dog"), sizes=(3, 2)):
    """Write PNGs of one colour for each class and image, and return the folder."""
    for split, size in zip(("train", "test"), sizes, strict=True):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for number in range(size):
                colour = (50 * label, 10 * number, 255 if split == "test" else 0)
                Image.new("RGB", (40, 32 + 8 * number), colour).save(folder / split / name / f"{number}.png")
    return folder


def test_images_by_class_are_sorted_by_class_and_name_and_made_to_fit(tmp_path):
    (save_folders(tmp_path) / "train" / "cat" / ".hidden").write_text("no image")
    dataset = load(tmp_path, num_classes=2)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.train.images.shape == (6, 32, 32, 3)
    assert dataset.train.images[:, 16, 16].tolist() == [[50 * c, 10 * n, 0] for c in range(2) for n in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "test"), "holds train/ and no test/; images are needed in both"),
        (lambda folder: shutil.rmtree(folder / "test" / "dog"), "the class 'dog' is in train/ and not in test/"),
        (lambda folder: (folder / "test" / "fox").mkdir(), "the class 'fox' is in test/ and not in train/"),
        (lambda folder: (folder / "train" / "cat" / "2.png").write_bytes(b"x"), "cat/2.png: is not an image; nothing"),
        (lambda folder: (folder / "train" / "cat" / "inner").mkdir(), "inner is a folder in the folder of a class"),
        (lambda folder: (folder / "train" / "0.png").write_bytes(b"x"), "train/0.png is in no class; put it into"),
        (lambda folder: os.mkfifo(folder / "test" / "cat" / "pipe.png"), "cat/pipe.png is not a file; remove it"),
    ],
)
def test_mistakes_in_folders_of_images_are_named(tmp_path, change, message):
    change(save_folders(tmp_path))
    with pytest.raises(UserError, match=message):
        load(tmp_path, num_classes=2)


def test_folders_of_images_need_two_classes_with_images(tmp_path):
    with pytest.raises(UserError, match="two or more classes, found only 'cat'"):
        load(save_folders(tmp_path / "one", ["cat"]), num_classes=1)
    with pytest.raises(UserError, match=r"cat holds no images; every class needs some"):
        load(save_folders(tmp_path / "empty", sizes=(0, 1)), num_classes=2)
    (tmp_path / "none" / "train").mkdir(parents=True)
    (tmp_path / "none" / "test").mkdir()
    with pytest.raises(UserError, match="found none"):
        load(tmp_path / "none", num_classes=2)


@pytest.mark.parametrize("num_classes", [1, 10])
def test_a_model_needs_as_many_logits_as_the_data_have_classes(tmp_path, num_classes):
    with pytest.raises(UserError, match=r"has 2 classes \(cat, dog\), .*; give --config.model.num_classes=2"):
        load(save_folders(tmp_path), num_classes=num_classes)


# Class names.


def test_a_npz_may_name_its_classes(tmp_path):
    names = [f"kind {number}" for number in range(10)]
    assert load(save_npz(tmp_path, class_names=np.array(names))).class_names == tuple(names)
    assert load(save_npz(tmp_path)).class_names == tuple("0123456789")  # not CIFAR-10's, so not its names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.arange(10), "class_names are int64"),
        (np.array("cat"), r"of shape \(\)"),
        (np.array(["cat"] * 10), "invalid class names"),
        (np.array(["a\nb", *"bcdefghij"]), "invalid class names"),
        (np.array(["cat", "dog"]), "has 2 classes"),
    ],
)
def test_class_names_that_are_none_are_refused(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        load(save_npz(tmp_path, class_names=names))


@needs_cifar10
def test_a_npz_of_cifar10_has_its_class_names(tmp_path):
    dataset = load()
    assert dataset.class_names == loading.CIFAR10_CLASSES
    fields = {
        f"{split}_{kind}": getattr(getattr(dataset, split), kind)
        for split in ("train", "test")
        for kind in ("images", "labels")
    }
    assert load(save_npz(tmp_path, **fields)).class_names == loading.CIFAR10_CLASSES


# Downloading and preparing.


def official_archive(path, images, which="cifar10"):
    """Write an archive with the layout of the official one, of some labels and images per file."""
    folder, coarse = cifar.SETS[which].folder, which == "cifar100"
    with tarfile.open(path, "w:gz") as tar:

        def add(name, content):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        if coarse:
            add("fine_label_names.txt", "".join(f"fine{i}\n" for i in range(100)).encode())
            add("coarse_label_names.txt", "".join(f"coarse{i}\n" for i in range(20)).encode())
        else:
            add("batches.meta.txt", b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n")
        for name, batch in images.items():
            records = [
                bytes([label // 5, label] if coarse else [label]) + image.transpose(2, 0, 1).tobytes()
                for label, image in batch
            ]
            add(f"{name}.bin", b"".join(records))


@pytest.fixture(params=["cifar10", "cifar100"])
def official_server(request, tmp_path, monkeypatch):
    """Serve a small archive instead of the official one, and yield its description and images."""
    rng, which = np.random.default_rng(0), cifar.SETS[request.param]
    images = {
        name.removesuffix(".bin"): [
            (int(rng.integers(which.num_classes["label"])), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            for _ in range(3)
        ]
        for name in (*which.train_files, *which.test_files)
    }
    served = tmp_path / "served"
    served.mkdir()
    official_archive(served / "cifar.tar.gz", images, which.name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((served / "cifar.tar.gz").read_bytes()).hexdigest()
    yield which._replace(url=f"http://127.0.0.1:{server.server_port}/cifar.tar.gz", sha256=digest), images
    server.shutdown()
    server.server_close()


def test_what_is_prepared_can_be_read_by_tfds(official_server, tmp_path):
    import tensorflow_datasets as tfds

    which, images = official_server
    root = tmp_path / "tensorflow_datasets"
    download.prepare(root, which)
    assert sorted(path.name for path in root.iterdir()) == [which.name]  # the download is deleted
    builder = tfds.builder(which.name, data_dir=root, file_format="array_record")
    assert builder.info.splits["train"].num_examples == 3 * len(which.train_files)
    first = {"cifar10": ["airplane", "automobile"], "cifar100": ["fine0", "fine1"]}[which.name]
    assert builder.info.features["label"].names[:2] == first
    for split, files in (("train", which.train_files), ("test", which.test_files)):
        source = tfds.data_source(which.name, split=split, data_dir=root)
        records = sorted((source[i] for i in range(len(source))), key=lambda record: record["id"])
        expected = [item for file in files for item in images[file.removesuffix(".bin")]]
        for record, (label, image) in zip(records, expected, strict=True):
            assert record["label"] == label and record.get("coarse_label", label // 5) == label // 5
            np.testing.assert_array_equal(record["image"], image)


def test_what_is_prepared_is_read_in_the_order_of_the_archive(official_server, tmp_path, monkeypatch):
    which, images = official_server
    monkeypatch.setitem(cifar.SETS, which.name, which)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    monkeypatch.setattr(cifar, "NUM_TRAIN", 3 * len(which.train_files))
    monkeypatch.setattr(cifar, "NUM_TEST", 3)
    dataset = load(name=which.name, num_classes=which.num_classes["label"])
    expected = [item for file in which.train_files for item in images[file.removesuffix(".bin")]]
    assert dataset.train.labels.tolist() == [label for label, _ in expected]
    np.testing.assert_array_equal(dataset.train.images, [image for _, image in expected])
    assert dataset.class_names[0] == {"cifar10": "airplane", "cifar100": "fine0"}[which.name]


@needs_cifar10
@pytest.mark.parametrize("official_server", ["cifar10"], indirect=True)
def test_the_layout_is_that_of_tfds_itself(official_server, tmp_path):
    """The folder is compared with that of the real data set, written by tfds."""
    download.prepare(tmp_path, official_server[0])
    ours, theirs = cifar.find_tfds(tmp_path), cifar.find_tfds(pathlib.Path(TFDS_DATA_DIR))
    assert ours.name == theirs.name
    assert sorted(file.name for file in ours.iterdir()) == sorted(file.name for file in theirs.iterdir())
    for name in ("features.json", "label.labels.txt"):
        assert (ours / name).read_text() == (theirs / name).read_text()
    infos = [json.loads((folder / "dataset_info.json").read_text()) for folder in (ours, theirs)]
    for key in ("description", "fileFormat", "location", "moduleName", "name", "supervisedKeys", "version"):
        assert infos[0][key] == infos[1][key], key


def test_an_archive_with_another_hash_is_refused_and_leaves_nothing(official_server, tmp_path):
    with pytest.raises(UserError, match="cut short or changed"):
        download.prepare(tmp_path / "root", official_server[0]._replace(sha256="0" * 64))
    assert list((tmp_path / "root").iterdir()) == []


def test_a_download_that_ends_early_is_refused_and_leaves_nothing(official_server, tmp_path, monkeypatch):
    which, _ = official_server
    send_little = lambda self, file, out: out.write(file.read(99))  # noqa: E731
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", send_little)
    with pytest.raises(UserError, match=r"cut short or changed|could not be downloaded"):
        download.prepare(tmp_path / "root", which)
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("network", ["refused", "silent", "missing"])
def test_without_a_network_the_message_names_the_ways_forward(tmp_path, monkeypatch, network):
    """The connection is refused, the server never answers, or the page is missing."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if network == "silent":
            listener.listen()
            monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
        if network == "missing":
            listener.close()
            server = http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler)
            threading.Thread(target=server.handle_request, daemon=True).start()
        changed = cifar.SETS["cifar10"]._replace(url=f"http://127.0.0.1:{port}/cifar.tar.gz")
        monkeypatch.setitem(cifar.SETS, "cifar10", changed)
        with pytest.raises(UserError) as error:
            load()
    message = str(error.value)
    assert len(message.splitlines()) <= 7
    for way in ("TFDS_DATA_DIR", "cifar-10-batches-py", ".npz", "--config=quickstart"):
        assert way in message


def test_a_name_lookup_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.5)
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: answered.wait(60))
    with pytest.raises(UserError, match="no answer within"):
        download.prepare(tmp_path, cifar.SETS["cifar10"])
    assert not answered.is_set()
    answered.set()


def test_the_timeouts_end_within_30_seconds():
    assert download.CONNECT_SECONDS < 30 and download.TIMEOUT_SECONDS < 30


# Held-out images.


def test_hold_out_divides_without_loss_and_the_same_way_each_time():
    split = loading.Split(np.zeros((100, 32, 32, 3), np.uint8), np.arange(100, dtype=np.int32))
    train, validation = loading.hold_out(split, 30)
    assert len(train) == 70 and len(validation) == 30
    assert sorted([*train.labels, *validation.labels]) == list(range(100))
    np.testing.assert_array_equal(validation.labels, loading.hold_out(split, 30)[1].labels)
    assert list(validation.labels) != list(range(30))


@pytest.mark.parametrize("size", [100, 101])
def test_holding_out_everything_is_refused(size):
    split = loading.Split(np.zeros((100, 32, 32, 3), np.uint8), np.zeros(100, np.int32))
    with pytest.raises(UserError, match="validation_size"):
        loading.hold_out(split, size)
