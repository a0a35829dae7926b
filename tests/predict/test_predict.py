"""Prediction from files, folders and pickles, and its output files."""

import csv
import dataclasses
import io
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jaxresnet
from jaxresnet import predict
from jaxresnet.data.loading import load_dataset
from jaxresnet.evaluate import evaluate_run
from jaxresnet.predict.grid import Gallery
from jaxresnet.predict.inputs import UNLABELLED, FileReader, find_files
from jaxresnet.predict.results import Predictions, join, select, with_unique_ids
from jaxresnet.system.errors import UserError
from tests.conftest import REPOSITORY

DIGITS = load_dataset("digits", None, 10).test
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def read_all(paths, size=1000):
    reader = FileReader(find_files([str(path) for path in paths]), num_classes=10)
    batches = list(reader.batches(size))
    assert reader.total == sum(len(batch.names) for batch in batches)
    return (
        [text for batch in batches for text in batch.names],
        [text for batch in batches for text in batch.ids],
        batches,
    )


# Sources of images.


def test_folders_are_read_in_the_order_of_their_numbers_without_hidden_files(tmp_path):
    for number in (10, 9, 1):
        save(tmp_path / "test" / f"{number}.png", IMAGES[number % 7])
    save(tmp_path / "test" / "deeper" / "2.png", IMAGES[2])
    (tmp_path / "test" / ".hidden").write_text("x")
    names, ids, batches = read_all([tmp_path / "test"], size=3)
    assert [name.removeprefix(f"{tmp_path}/test/") for name in names] == ["1.png", "9.png", "10.png", "deeper/2.png"]
    assert ids == ["1", "9", "10", "2"]
    assert [len(batch.names) for batch in batches] == [3, 1]
    np.testing.assert_array_equal(batches[0].pixels, IMAGES[[1, 2, 3]])
    assert (batches[0].labels == UNLABELLED).all()


def test_ids_that_are_not_unique_give_way_to_names():
    predictions = Predictions(["a/1.png", "b/1.png"], ["1", "1"], np.zeros(2), np.zeros((2, 1)), np.zeros((2, 1)))
    assert with_unique_ids(predictions).ids == ["a/1.png", "b/1.png"]
    unique = dataclasses.replace(predictions, ids=["1", "2"])
    assert with_unique_ids(unique) is unique


def test_a_file_that_is_given_twice_is_read_once(tmp_path, monkeypatch):
    save(tmp_path / "a.png", IMAGES[0])
    monkeypatch.chdir(tmp_path)
    assert [str(file) for file in find_files(["a.png", ".", "./a.png"])] == ["a.png"]


def test_names_of_no_encoding_and_with_line_breaks_are_made_printable(tmp_path):
    for name in (b"caf\xe9.png", b"a\nb.png", "x\N{SUPERSCRIPT TWO}3.png".encode()):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            Image.fromarray(IMAGES[0]).save(file, format="PNG")
    unknown = "\N{REPLACEMENT CHARACTER}"
    assert sorted(read_all([tmp_path])[1]) == sorted([f"caf{unknown}", f"a{unknown}b", "x\N{SUPERSCRIPT TWO}3"])


@pytest.mark.parametrize("missing", ["none.png", "folder"])
def test_missing_files_and_empty_folders_are_refused(tmp_path, missing):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"no such file or folder|no files in this folder"):
        find_files([str(tmp_path / missing)])


def test_what_is_no_image_is_named_and_the_rest_goes_on(tmp_path, capsys):
    save(tmp_path / "a.png", IMAGES[0])
    (tmp_path / "b.txt").write_text("x")
    save(tmp_path / "c.png", IMAGES[1].repeat(2, 0).repeat(2, 1))
    names, _, _ = read_all([tmp_path])
    assert [name.rpartition("/")[2] for name in names] == ["a.png", "c.png"]
    assert capsys.readouterr().err.splitlines() == [
        f"skipped: {tmp_path / 'b.txt'}: is not an image",
        f"note: resized to 32x32: {tmp_path / 'c.png'}",
    ]


def test_notes_on_many_files_are_one_line(tmp_path, capsys):
    for number in range(5):
        save(tmp_path / f"{number}.png", IMAGES[number, :, :, 0])
    read_all([tmp_path])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: grey") and line.endswith("2.png and 2 more")


@pytest.mark.reliability
def test_what_pillow_warns_of_is_not_printed(tmp_path, capsys):
    """Each warning would take two lines, and name one of Pillow's own files."""
    save(tmp_path / "a.im", IMAGES[0].repeat(2, 0))
    assert len(list(FileReader([tmp_path / "a.im"], 10).batches(1))) == 1
    assert capsys.readouterr().err.splitlines() == [f"note: resized to 32x32 from its central square: {tmp_path}/a.im"]


PLANES = IMAGES.transpose(0, 3, 1, 2).reshape(7, 3072)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("shape", ["flat", "planes", "images"])
def test_the_unlabelled_pickle_of_the_course(tmp_path, protocol, shape):
    data = {"flat": PLANES, "planes": PLANES.reshape(7, 3, 32, 32), "images": IMAGES}[shape]
    path = tmp_path / "cifar_test_nolabels.pkl"
    path.write_bytes(pickle.dumps({b"data": data}, protocol=protocol))
    names, ids, (batch,) = read_all([path])
    assert ids == list("0123456") and names[2] == f"{path}[2]"
    np.testing.assert_array_equal(batch.pixels, IMAGES)
    assert (batch.labels == UNLABELLED).all()


@pytest.mark.parametrize(
    "ids", [np.arange(10, 17), list(range(10, 17)), [b"10", b"11", b"12", b"13", b"14", b"15", b"16"]]
)
def test_the_newer_pickle_with_ids(tmp_path, ids):
    path = tmp_path / "test.pkl"
    path.write_bytes(pickle.dumps({b"data": PLANES, b"ids": ids}))
    assert read_all([path])[1] == [str(number) for number in range(10, 17)]


def test_labelled_batches_need_no_ending_and_are_cut(tmp_path):
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps({b"data": PLANES, b"labels": [0, 1, 2, 3, 4, 5, 6]}, protocol=2))
    names, ids, batches = read_all([tmp_path], size=4)
    assert [len(batch.names) for batch in batches] == [4, 3, 4, 3]
    assert ids == 2 * list("0123456") and names[7] == f"{tmp_path / 'test_batch'}[0]"
    np.testing.assert_array_equal(batches[1].labels, [4, 5, 6])
    np.testing.assert_array_equal(batches[1].pixels, IMAGES[4:])


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


BAD_PICKLES = {
    "code": lambda path: pickle.dumps({b"data": RunsCode(path / "ran")}),
    "truncated": lambda path: pickle.dumps({b"data": PLANES})[:900],
    "no data": lambda path: pickle.dumps({b"images": PLANES}),
    "no dictionary": lambda path: pickle.dumps([1]),
    "floats": lambda path: pickle.dumps({b"data": PLANES / 255}),
    "another size": lambda path: pickle.dumps({b"data": PLANES[:, :100]}),
    "no images": lambda path: pickle.dumps({b"data": PLANES[:0]}),
    "few labels": lambda path: pickle.dumps({b"data": PLANES, b"labels": [1, 2]}),
    "labels that are no numbers": lambda path: pickle.dumps({b"data": PLANES, b"labels": list("abcdefg")}),
    "labels beyond the classes": lambda path: pickle.dumps({b"data": PLANES, b"labels": [10] * 7}),
    "labels beyond 32 bits": lambda path: pickle.dumps({b"data": PLANES, b"labels": [2**32] * 7}),
    "ids of another kind": lambda path: pickle.dumps({b"data": PLANES, b"ids": [None] * 7}),
    "negative labels": lambda path: pickle.dumps({b"data": PLANES, b"labels": [-1] * 7}),
    "few ids": lambda path: pickle.dumps({b"data": PLANES, b"ids": [1]}),
    "text": lambda path: b"no pickle",
    "empty": lambda path: b"",
}


@pytest.mark.parametrize("kind", BAD_PICKLES)
def test_bad_pickles_are_left_out_in_one_line_and_run_nothing(tmp_path, capsys, kind):
    (tmp_path / "bad.pkl").write_bytes(BAD_PICKLES[kind](tmp_path))
    save(tmp_path / "good.png", IMAGES[0])
    assert len(read_all([tmp_path])[0]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"skipped: {tmp_path / 'bad.pkl'}: ")
    assert not (tmp_path / "ran").exists()


# The classifier.


def test_logits_do_not_depend_on_the_batches(quickstart_run):
    classifier = jaxresnet.load(str(quickstart_run))
    assert (classifier.batch_size, classifier.class_names) == (120, tuple("0123456789"))
    logits = classifier.logits(DIGITS.images[:250])  # three batches, the last padded
    assert logits.shape == (250, 10) and logits.dtype == np.float32
    one = classifier.logits(DIGITS.images[130:131])
    np.testing.assert_allclose(one[0], logits[130], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(classifier.probabilities(DIGITS.images[:3]).sum(-1), 1, rtol=1e-6)
    assert classifier.logits(DIGITS.images[:0]).shape == (0, 10)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 32, 32, 3)), np.zeros((32, 32), np.uint8), np.zeros((1, 0, 0, 3), np.uint8), ["no.png"]],
)
def test_what_is_no_image_is_refused(quickstart_run, images):
    with pytest.raises(UserError, match=r"expected uint8 of shape \(height, width, 3\)|no.png"):
        jaxresnet.load(str(quickstart_run)).logits(images)


def test_paths_pictures_and_pixels_of_one_image_or_many(quickstart_run, tmp_path):
    classifier, pixels = jaxresnet.load(str(quickstart_run)), DIGITS.images[0]
    path = tmp_path / "digit.png"
    Image.fromarray(pixels).save(path)
    expected = classifier.logits(pixels[None])
    one = (pixels, Image.fromarray(pixels), path, str(path))
    for images in (*one, [*one], np.stack([pixels] * 3)):
        logits = classifier.logits(images)
        assert logits.shape == (len(images) if isinstance(images, list) else len(logits), 10)
        np.testing.assert_allclose(logits, np.broadcast_to(expected, logits.shape), rtol=1e-5, atol=1e-5)
    large = np.asarray(Image.fromarray(pixels).resize((320, 320), Image.Resampling.NEAREST))
    assert classifier.classify(large) == classifier.classify([path]) == [str(expected.argmax())]


# The command.


def run(capsys, *arguments):
    predict.main([str(argument) for argument in arguments])
    return capsys.readouterr()


def refuse(capsys, *arguments):
    with pytest.raises(SystemExit) as raised:
        run(capsys, *arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_test_set_is_scored_as_evaluate_does(quickstart_run, tmp_path, capsys):
    out = tmp_path / "test.jsonl"
    printed = run(capsys, f"--workdir={quickstart_run}", f"--out={out}").out
    sums = evaluate_run(str(quickstart_run), "last").scores.sums
    assert f"{100 * sums.correct / 360:.2f}% of 360 labelled images right" in printed
    assert "... and 340 more" in printed and len(printed.splitlines()) == 24
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 360
    assert sum(line["class"] == line["true_class"] for line in lines) == sums.correct
    assert lines[5]["image"] == "test[5]" and lines[5]["id"] == "5"
    assert [line["true_class"] for line in lines] == [str(label) for label in DIGITS.labels]
    classifier = jaxresnet.load(str(quickstart_run))
    probabilities = classifier.probabilities(DIGITS.images)
    for line, row in zip(lines, probabilities, strict=True):
        best = np.argsort(-row)[:3]
        assert [entry["class"] for entry in line["top"]] == [str(label) for label in best]
        assert line["label"] == best[0] and line["class"] == str(best[0])
        assert line["probability"] == pytest.approx(row[best[0]], rel=1e-4)


def test_a_folder_of_images_to_a_submission(quickstart_run, tmp_path, capsys):
    for index in range(12):
        save(tmp_path / "images" / f"{index + 1}.png", DIGITS.images[index])
    (tmp_path / "images" / "notes.txt").write_text("x")
    out = tmp_path / "submission.csv"
    printed = run(capsys, f"--workdir={quickstart_run}", tmp_path / "images", f"--out={out}")
    rows = list(csv.reader(out.open()))
    assert rows[0] == ["ID", "Labels"] and [row[0] for row in rows[1:]] == [str(number) for number in range(1, 13)]
    expected = jaxresnet.load(str(quickstart_run)).logits(DIGITS.images[:12]).argmax(-1)
    assert [int(row[1]) for row in rows[1:]] == expected.tolist()
    assert "notes.txt: is not an image" in printed.err
    header, first = printed.out.splitlines()[:2]
    assert header.split() == ["image", "predicted", "probability", "then"]
    assert re.search(r"1\.png +\d +\d+\.\d% +\d \d+\.\d%, \d \d+\.\d%$", first)
    assert "labelled" not in printed.out and "12 images in" in printed.out


def test_a_picture_is_written(quickstart_run, tmp_path, capsys):
    grid = tmp_path / "wrong.png"
    run(capsys, f"--workdir={quickstart_run}", f"--grid={grid}")
    with Image.open(grid) as image:
        assert image.width > 1000 and image.height > 1000
        assert len(set(np.asarray(image.convert("L")).ravel().tolist())) > 50  # The picture is not blank.


def test_a_picture_of_one_image(quickstart_run, tmp_path, capsys):
    run(
        capsys,
        f"--workdir={quickstart_run}",
        save(tmp_path / "7.png", DIGITS.images[0]),
        f"--grid={tmp_path / 'g.svg'}",
    )
    assert "<svg" in (tmp_path / "g.svg").read_text()


@pytest.mark.parametrize("flag", ["--out=x.csv", "--out=x.jsonl", "--grid=x.png"])
def test_nothing_is_overwritten_without_force(quickstart_run, tmp_path, capsys, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / flag.partition("=")[2]
    file.write_text("mine")
    assert "exists; give another name, or --force" in refuse(capsys, f"--workdir={quickstart_run}", flag)
    assert file.read_text() == "mine"
    run(capsys, f"--workdir={quickstart_run}", flag, "--force")
    assert file.stat().st_size > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x.txt"], "expected a name that ends in .csv or .jsonl"),
        (["--out=none/x.csv"], "there is no folder none"),
        (["--out=folder.csv", "--force"], "is a folder or a device, not a file"),
        (["--grid=x.nothing"], "expected a name that ends in .png"),
        (["none.png"], "there is no such file"),
        (["a" * 300], "File name too long"),
        ([""], "there is no such file or folder"),
        (["pipe"], "is neither a file nor a folder"),
        (["text.png", "--data_dir=x"], "--data_dir names the run's test set"),
        (["--checkpoint=7"], "--checkpoint=7: expected best, last, or one of"),
        (["text.png"], "none of these files could be read"),
        (["empty"], "there are no files in this folder"),
    ],
)
def test_mistakes_are_answered_in_one_line(quickstart_run, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert message in refuse(capsys, f"--workdir={quickstart_run}", *arguments)


def test_a_file_that_appears_meanwhile_is_not_overwritten(quickstart_run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "o.csv"

    def appear(*arguments):
        out.write_text("mine")
        return ""

    monkeypatch.setattr("jaxresnet.predict.command.to_submission", appear)
    assert "exists; give another name" in refuse(capsys, f"--workdir={quickstart_run}", f"--out={out}")
    assert out.read_text() == "mine" and [file.name for file in tmp_path.iterdir()] == ["o.csv"]


def test_a_dangling_link_and_files_beside_stay_as_they_are(quickstart_run, tmp_path, capsys):
    (tmp_path / "link.csv").symlink_to("nowhere")
    (tmp_path / "o.csv.tmp").write_text("mine")
    assert "exists" in refuse(capsys, f"--workdir={quickstart_run}", f"--out={tmp_path / 'link.csv'}")
    run(capsys, f"--workdir={quickstart_run}", f"--out={tmp_path / 'o.csv'}")
    assert (tmp_path / "o.csv.tmp").read_text() == "mine" and (tmp_path / "link.csv").is_symlink()


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert "holds no run" in refuse(capsys, f"--workdir={tmp_path}")


@pytest.mark.reliability
def test_several_devices_say_the_same(quickstart_run, tmp_path, subprocess_environment):
    """A batch of four images does not divide among three devices."""
    for index in range(4):
        save(tmp_path / "images" / f"{index}.png", DIGITS.images[index])
    environment = subprocess_environment | {"JAX_NUM_CPU_DEVICES": "3"}
    command = [sys.executable, "-m", "jaxresnet.predict", f"--workdir={quickstart_run}", "images", "--out=o.jsonl"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    expected = jaxresnet.load(str(quickstart_run)).probabilities(DIGITS.images[:4])
    np.testing.assert_allclose([line["probability"] for line in lines], expected.max(-1), rtol=1e-4)


# The picture.


def test_the_gallery_chooses_the_most_confidently_wrong(monkeypatch):
    rng = np.random.default_rng(0)
    size = 300
    confidence = rng.uniform(0.2, 1, (size, 1))
    labels = rng.choice([UNLABELLED, 0, 1, 2, 3], size, p=[0.04, 0.2, 0.2, 0.28, 0.28])
    top = np.where(rng.random(size) < 0.9, np.maximum(labels, 0), 3)[:, None]
    names = [str(index) for index in range(size)]
    everything = Predictions(names, names, labels, top, confidence)
    gallery = Gallery(100)
    for start in range(0, size, 70):
        part = np.arange(size)[start : start + 70]
        gallery.add(part[:, None, None, None] * np.ones((1, 2, 2, 3), int), select(everything, part))
    _, pixels, chosen = gallery._kept

    def order(index):
        if labels[index] == UNLABELLED:
            return 1, index
        wrong = top[index, 0] != labels[index]
        return (0, -confidence[index, 0]) if wrong else (2, confidence[index, 0])

    expected = sorted(range(size), key=order)[:100]
    assert chosen.names == [str(index) for index in expected]
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], expected)


def test_the_words_of_the_picture(tmp_path):
    one = Predictions(["a"], ["a"], np.array([3]), np.array([[5, 3]]), np.array([[0.91, 0.05]]))
    two = dataclasses.replace(one, labels=np.array([5]))
    three = dataclasses.replace(one, labels=np.array([UNLABELLED]))
    gallery = Gallery(6)
    gallery.add(np.zeros((3, 32, 32, 3), np.uint8), join([two, three, one]))
    figure = gallery.draw([f"class{label}" for label in range(10)])
    titles = [(axes.get_title(), axes.title.get_color()) for axes in figure.axes]
    assert [title for title, _ in titles] == ["class5 91%"] * 3
    assert len({colour for _, colour in titles}) == 3
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["is class3"]
    figure.savefig(io.BytesIO())


def test_help_says_what_images_may_be(subprocess_environment):
    command = [sys.executable, "-m", "jaxresnet.predict", "--help"]
    done = subprocess.run(command, env=subprocess_environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert "pickles such as CIFAR-10's" in " ".join(done.stdout.split())
