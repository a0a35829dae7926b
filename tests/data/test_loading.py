"""Sources of images, whole and damaged."""

import hashlib
import io
import json
import os
import pathlib
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxresnet.data import cifar, loading
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
def test_cifar10_is_the_official_one(monkeypatch):
    dataset = load()
    assert dataset.train.images.shape == (50_000, 32, 32, 3) and dataset.test.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), np.full(10, 5_000))
    means = dataset.train.images.mean((0, 1, 2), dtype=np.float64) / 255
    np.testing.assert_allclose(means, (0.49139968, 0.48215841, 0.44653091), atol=5e-9)
    assert dataset.content() == cifar.CIFAR10.content
    assert dataset.class_names == cifar.CIFAR10_CLASSES
    monkeypatch.setattr(cifar, "_decode", None)  # the second start decodes nothing, so this is not called
    assert load().fingerprint() == dataset.fingerprint()


@needs_cifar10
@pytest.mark.parametrize("damage", ["truncate", "zero", "remove", "tfrecord"])
def test_records_if_damaged_are_refused(tmp_path, damage):
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
    with pytest.raises(UserError, match="array_record" if damage == "tfrecord" else "prepare cifar10 again"):
        load(tmp_path)


def test_content_does_not_depend_on_order(tmp_path):
    arrays = small_arrays()
    swapped = {f"train_{kind}": arrays[f"train_{kind}"][::-1] for kind in ("images", "labels")}
    first, second = load(save_npz(tmp_path)), load(save_npz(tmp_path, **swapped))
    assert first.content() == second.content() and first.fingerprint() != second.fingerprint()
    other = load(save_npz(tmp_path, test_labels=arrays["test_labels"][::-1]))
    assert other.content() != first.content()


# Digits.


def test_digits_have_one_split():
    first, second = load(name="digits"), load(name="digits")
    assert len(first.train) == 1797 - 360 and len(first.test) == 360
    assert first.train.images.shape[1:] == (32, 32, 3) and first.train.images.max() == 255
    assert first.fingerprint() == second.fingerprint()
    assert np.bincount(first.test.labels, minlength=10).min() >= 34


def test_names_that_are_unknown_are_refused():
    with pytest.raises(UserError, match="expected one of cifar10, cifar100, digits"):
        load(name="cifar20")


# .npz files.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(test_labels=None), "test_labels is not a file in the archive"),
        (dict(train_images=np.zeros((20, 3, 32, 32), np.uint8)), r"shape \(20, 3, 32, 32\): expected uint8"),
        (dict(test_images=np.zeros((10, 32, 32, 3), np.float32)), "test images are float32"),
        (dict(test_images=np.zeros((0, 32, 32, 3), np.uint8), test_labels=np.zeros(0, int)), "test images"),
        (dict(train_labels=np.arange(19) % 10), r"expected integers of shape \(20,\)"),
        (dict(train_labels=np.zeros(20)), "labels are float64"),
        (dict(train_labels=np.arange(20)), "labels go from 0 to 19: expected 0 to 9"),
        (dict(test_labels=np.arange(10) - 1), "labels go from -1 to 8"),
        (dict(train_labels=np.array([object()] * 20)), "is not a .npz file .* or damaged"),
    ],
)
def test_npz_of_other_arrays_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load(save_npz(tmp_path, **changes))


def test_npz_may_name_its_classes(tmp_path):
    names = [f"kind {number}" for number in range(10)]
    assert load(save_npz(tmp_path, class_names=np.array(names))).class_names == tuple(names)
    with pytest.raises(UserError, match="has 2 classes"):
        load(save_npz(tmp_path, class_names=np.array(["cat", "dog"])))
    dataset = load(save_npz(tmp_path))
    assert dataset.class_names == tuple("0123456789")
    np.testing.assert_array_equal(dataset.train.images, small_arrays()["train_images"])
    np.testing.assert_array_equal(dataset.test.labels, small_arrays()["test_labels"])


# Folders that hold no data.


def test_data_dir_without_data_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.data_dir=.*nowhere' does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "holiday.jpg").write_bytes(b"")
    for folder in ("cifar10/incomplete.A2MNWR_3.0.2", "mnist/3.0.1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "dataset_info.json").write_text("{}")
    for data_dir in (tmp_path, tmp_path / "mnist" / "3.0.1"):
        with pytest.raises(UserError, match="holds no cifar10"):
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
    folder = tmp_path_factory.mktemp("pytorch") / cifar.CIFAR10.archives[0].folder
    folder.mkdir()
    for seed, name in enumerate(sum(cifar.CIFAR10.batches.values(), ())):
        (folder / name).write_bytes(pickle.dumps(batch_content(seed), protocol=4))
    return folder


def test_batches_are_read_in_order(pickled):
    for data_dir in (pickled, pickled.parent):
        dataset = load(data_dir)
        assert len(dataset.train) == 50_000 and len(dataset.test) == 10_000
        assert dataset.class_names == cifar.CIFAR10_CLASSES
        third = batch_content(2)
        np.testing.assert_array_equal(dataset.train.labels[20_000:30_000], third[b"labels"])
        # Batches store images channel by channel.
        np.testing.assert_array_equal(dataset.train.images[20_001, :, :, 1].ravel(), third[b"data"][1, 1024:2048])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file.*data_batch_3"),
        (b"not a pickle", "is not a batch"),
        (pickle.dumps(batch_content(0), protocol=4)[:1_000_000], "is not a batch"),
        (pickle.dumps({b"data": np.zeros((10, 3072), np.uint8), b"labels": [0] * 10}), "holds 10 images"),
        (pickle.dumps({b"data": np.zeros((10_000, 3072)), b"labels": [0] * 10_000}), "holds float64 images"),
        (
            pickle.dumps({b"data": np.zeros((10_000, 3072), np.uint8), b"labels": [0] * 9_999}),
            "expected 10,000 int",
        ),
        (pickle.dumps({b"data": np.zeros((10_000, 3072), np.uint8), b"labels": [11] * 10_000}), "labels go from"),
    ],
    ids=["missing", "text", "truncated", "short", "float", "labels", "range"],
)
def test_batches_if_damaged_are_refused(pickled, tmp_path, content, message):
    for file in pickled.iterdir():
        if file.name != "data_batch_3":
            (tmp_path / file.name).symlink_to(file)
    if content is not None:
        (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        load(tmp_path)


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


def test_folders_are_read_in_order(tmp_path):
    (save_folders(tmp_path) / "train" / "cat" / ".hidden").write_text("no image")
    dataset = load(tmp_path, num_classes=2)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.train.images.shape == (6, 32, 32, 3)
    assert dataset.train.images[:, 16, 16].tolist() == [[50 * c, 10 * n, 0] for c in range(2) for n in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "test"), "holds no test/; images are needed in"),
        (lambda folder: shutil.rmtree(folder / "test" / "dog"), "'dog' is in train/ and not in test/"),
        (lambda folder: (folder / "test" / "fox").mkdir(), "'fox' is in test/ and not in train/"),
        (
            lambda folder: (folder / "train" / "cat" / "2.png").write_bytes(b"x"),
            "cat/2.png: is not an image that Pillow reads, as it does JPEG and PNG; training",
        ),
        (lambda folder: (folder / "train" / "cat" / "inner").mkdir(), "inner is not a file; put images straight into"),
        (lambda folder: os.mkfifo(folder / "test" / "cat" / "pipe.png"), "cat/pipe.png is not a file"),
        (lambda folder: [(folder / split / "0.png").touch() for split in ("train", "test")], "0.png is in no class"),
    ],
)
def test_folders_with_mistakes_are_refused(tmp_path, change, message):
    change(save_folders(tmp_path))
    with pytest.raises(UserError, match=message):
        load(tmp_path, num_classes=2)


def test_folders_need_two_classes(tmp_path):
    with pytest.raises(UserError, match=r"two or more classes, found \['cat'\]"):
        load(save_folders(tmp_path / "one", ["cat"]), num_classes=1)
    with pytest.raises(UserError, match=r"cat holds no images; every class needs some"):
        load(save_folders(tmp_path / "empty", sizes=(0, 1)), num_classes=2)
    with pytest.raises(UserError, match=r"has 2 classes \(cat, dog\), .*; give --config.model.num_classes=2"):
        load(save_folders(tmp_path / "two"), num_classes=10)


def save_classes(folder, counts):
    """Write images of 40x32 pixels, each of its own colour, into a folder for each class, and return the folder."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 32), (50 * label, 10 * number, 0)).save(folder / name / f"{number}.png")
    return folder


def test_classes_are_split_by_seed(tmp_path):
    save_classes(tmp_path, {"cat": 10, "dog": 20, "fox": 2})
    dataset, same, other = (loading.load_dataset("cifar10", str(tmp_path), 3, test_files=seed) for seed in (0, 0, 1))
    assert np.bincount(dataset.train.labels).tolist() == [8, 16, 1]
    assert np.bincount(dataset.test.labels).tolist() == [2, 4, 1]
    assert same.fingerprint() == dataset.fingerprint() != other.fingerprint()
    pixels = [tuple(image[0, 0]) for split in (dataset.train, dataset.test) for image in split.images]
    assert len(pixels) == len({*pixels}) == 32  # none is in both splits
    expected = [(50 * ("cat", "dog", "fox").index(name[:3]), 10 * int(name[4:-4]), 0) for name in dataset.test_files]
    assert {tuple(image[0, 0].tolist()) for image in dataset.test.images} == {*expected}


def test_recorded_test_images_stay_so(tmp_path):
    first = loading.load_dataset("cifar10", str(save_classes(tmp_path, {"cat": 10, "dog": 10})), 2)
    for name in ("cat", "dog"):
        shutil.copy(tmp_path / name / "0.png", tmp_path / name / "00.png")
    again = loading.load_dataset("cifar10", str(tmp_path), 2, test_files=first.test_files)
    np.testing.assert_array_equal(again.test.images, first.test.images)
    assert len(again.train) == len(first.train) + 2
    (tmp_path / first.test_files[0]).unlink()
    with pytest.raises(UserError, match=f"{first.test_files[0]} is gone, which is a test image of this run"):
        loading.load_dataset("cifar10", str(tmp_path), 2, test_files=first.test_files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: [file.unlink() for file in (folder / "cat").glob("[1-9].png")], "cat holds one image only"),
        (lambda folder: shutil.copytree(folder / "cat", folder / "Cat"), "classes 'Cat' and 'cat' differ by case only"),
        (
            lambda folder: (folder / "cat" / "1.png").write_bytes(b"x"),
            "cat/1.png: is not an image that Pillow reads, as it does JPEG and PNG; training skips",
        ),
        (lambda folder: (folder / "notes.txt").touch(), "notes.txt is in no class"),
        (lambda folder: shutil.rmtree(folder / "dog"), r"two or more classes, found \['cat'\]"),
        (lambda folder: [shutil.rmtree(path) for path in folder.iterdir()], "holds no cifar10 and no images by class"),
    ],
)
def test_classes_with_mistakes_are_refused(tmp_path, change, message):
    change(save_classes(tmp_path, {"cat": 3, "dog": 3}))
    with pytest.raises(UserError, match=message):
        load(tmp_path, num_classes=2)


def test_images_have_the_asked_size(tmp_path):
    folder = save_classes(tmp_path / "classes", {"cat": 3, "dog": 3})
    for data_dir in (folder, save_folders(tmp_path / "splits")):
        dataset = loading.load_dataset("cifar10", str(data_dir), 2, image_size=48)
        assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (48, 48, 3)
    with pytest.raises(UserError, match=r"expected uint8 of shape .any size, 48, 48, 3"):
        loading.load_dataset("cifar10", str(save_npz(tmp_path)), 10, image_size=48)
    for name in ("cifar10", "digits"):
        with pytest.raises(UserError, match=f"images of {name} have 32"):
            loading.load_dataset(name, None, 10, image_size=48)


# Downloading and preparing.

CLASSES = {
    ("cifar10", "label"): cifar.CIFAR10_CLASSES,
    ("cifar100", "label"): [f"fine{number}" for number in range(100)],
    ("cifar100", "coarse_label"): [f"coarse{number}" for number in range(20)],
}


def official_archive(images, name="cifar10", form="python"):
    """Return an archive with the layout of the official one, of some labels and images per file."""
    content, labels = io.BytesIO(), cifar.SETS[name].labels
    published = {label: f"fine_{label}" if (name, label) == ("cifar100", "label") else label for label in labels}
    if form == "binary":
        files = {f"{published[key]}_names.txt": "\n".join([*CLASSES[name, key], "\n"]).encode() for key in labels}
    else:
        names = {f"{published[key]}_names".encode(): [each.encode() for each in CLASSES[name, key]] for key in labels}
        files = {"meta": pickle.dumps(names)}
    for file, batch in images.items():
        pixels = np.array([image for _, image in batch]).transpose(0, 3, 1, 2).reshape(-1, 3072)
        kinds = {"coarse_label": [label // 5 for label, _ in batch], "label": [label for label, _ in batch]}
        if form == "binary":
            records = np.concatenate([*(np.uint8(kinds[key])[:, None] for key in labels), pixels], 1)
            files[f"{file}.bin"] = records.tobytes()
        else:
            targets = {f"{published[key]}s".encode(): kinds[key] for key in labels}
            files[file] = pickle.dumps({b"data": pixels, **targets}, protocol=2)
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for file, text in files.items():
            member = tarfile.TarInfo(f"folder/{file}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return content.getvalue()


@pytest.fixture(params=["cifar10-python", "cifar10-binary", "cifar100-python", "cifar100-binary"])
def archive(request, tmp_path, monkeypatch):
    """Give three images to each file of a set. Return its name, a split's labels and images, a root and the archive."""
    rng, (name, form) = np.random.default_rng(0), request.param.split("-")
    known = cifar.SETS[name]
    images = {
        split: [
            (int(rng.integers(known.labels["label"])), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            for _ in range(3 * len(files))
        ]
        for split, files in known.batches.items()
    }
    parts = {file: images[split][3 * i : 3 * i + 3] for split in images for i, file in enumerate(known.batches[split])}
    content = official_archive(parts, name, form)
    archives = [one._replace(size=len(content)) if form in one.name else one for one in known.archives]
    monkeypatch.setitem(cifar.SETS, name, known._replace(archives=tuple(archives)))
    for one in archives:
        monkeypatch.setitem(cifar.SHA256, one.name, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(cifar, "NUM_TRAIN", len(images["train"]))
    monkeypatch.setattr(cifar, "NUM_TEST", 3)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    path = tmp_path / "elsewhere" / next(one.name for one in archives if form in one.name)
    path.parent.mkdir()
    path.write_bytes(content)
    return name, images, tmp_path / "root", path


def assert_is(dataset, images):
    for split, expected in images.items():
        found = getattr(dataset, split)
        assert found.labels.tolist() == [label for label, _ in expected]
        np.testing.assert_array_equal(found.images, [image for _, image in expected])


@pytest.mark.parametrize("place", ["data_dir", "root", "downloads", "current", "unpacked"])
def test_fetched_archives_are_used(archive, tmp_path, monkeypatch, place):
    name, images, root, path = archive
    folder = {"root": root, "downloads": root / "downloads"}.get(place, path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    path = path.rename(folder / path.name.replace(".tar", " (1).tar"))
    monkeypatch.chdir(path.parent if place == "current" else tmp_path)
    if place == "unpacked":
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
        (folder / "folder").rename(folder / "cifar")
    data_dir = {"data_dir": path, "unpacked": folder / "cifar"}.get(place)
    dataset = load(data_dir, name, cifar.SETS[name].labels["label"])
    assert_is(dataset, images)
    assert dataset.class_names == tuple(CLASSES[name, "label"])
    assert path.exists()


def test_prepared_folders_are_read_by_tfds(archive):
    import tensorflow_datasets as tfds

    name, images, root, path = archive
    load(path, name, cifar.SETS[name].labels["label"])
    assert sorted(path.name for path in root.iterdir()) == [f".{name}.lock", name]
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    assert builder.info.splits["train"].num_examples == len(images["train"])
    first = {"cifar10": ["airplane", "automobile"], "cifar100": ["fine0", "fine1"]}[name]
    assert builder.info.features["label"].names[:2] == first
    for split, expected in images.items():
        source = tfds.data_source(name, split=split, data_dir=root)
        records = sorted((source[i] for i in range(len(source))), key=lambda record: record["id"])
        for record, (label, image) in zip(records, expected, strict=True):
            assert record["label"] == label and record.get("coarse_label", label // 5) == label // 5
            np.testing.assert_array_equal(record["image"], image)


@needs_cifar10
@pytest.mark.parametrize("archive", ["cifar10-python", "cifar10-binary"], indirect=True)
def test_prepared_folders_have_tfds_layout(archive):
    load(archive[3])
    ours, theirs = cifar.find_tfds(archive[2]), cifar.find_tfds(pathlib.Path(TFDS_DATA_DIR))
    assert ours.name == theirs.name
    assert sorted(file.name for file in ours.iterdir()) == sorted(file.name for file in theirs.iterdir())
    for name in ("features.json", "label.labels.txt"):
        assert (ours / name).read_text() == (theirs / name).read_text()
    infos = [json.loads((folder / "dataset_info.json").read_text()) for folder in (ours, theirs)]
    for key in ("description", "fileFormat", "location", "moduleName", "name", "supervisedKeys", "version"):
        assert infos[0][key] == infos[1][key], key


# Held-out images.


def test_hold_out_divides_the_same_way():
    split = loading.Split(np.zeros((100, 32, 32, 3), np.uint8), np.arange(100, dtype=np.int32))
    train, validation = loading.hold_out(split, 30)
    assert len(train) == 70 and len(validation) == 30
    assert sorted([*train.labels, *validation.labels]) == list(range(100))
    np.testing.assert_array_equal(validation.labels, loading.hold_out(split, 30)[1].labels)
    assert list(validation.labels) != list(range(30))
    with pytest.raises(UserError, match="validation_size"):
        loading.hold_out(split, 100)
