"""Prediction from files, folders and pickles, and its output files."""

import csv
import json
import os
import pickle
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

import jaxresnet
from jaxresnet import predict
from jaxresnet.data.loading import load_dataset
from jaxresnet.evaluate import evaluate_run
from jaxresnet.predict import Prediction, choose, find_files, read_files
from jaxresnet.system.errors import UserError

DIGITS = load_dataset("digits", None, 10).test
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def read_all(paths):
    files = find_files([str(path) for path in paths])
    bar = types.SimpleNamespace(total=len(files))
    images = list(read_files(files, 10, bar))
    assert bar.total == len(images)
    return images


# Sources of images.


def test_folders_are_read_without_hidden_files(tmp_path):
    for name in ("b/2.png", "a.png", "b/1.png"):
        save(tmp_path / "test" / name, IMAGES[0])
    (tmp_path / "test" / ".hidden").write_text("x")
    os.mkfifo(tmp_path / "test" / "pipe")
    images = read_all([tmp_path / "test"])
    assert [image.name.removeprefix(f"{tmp_path}/test/") for image in images] == ["a.png", "b/1.png", "b/2.png"]
    assert [(image.id, image.label) for image in images] == [("a", None), ("1", None), ("2", None)]
    np.testing.assert_array_equal(images[0].pixels, IMAGES[0])


def test_other_files_are_skipped(tmp_path, capsys):
    save(tmp_path / "a.png", IMAGES[0])
    (tmp_path / "b.txt").write_text("x")
    save(tmp_path / "c.png", IMAGES[1].repeat(2, 0).repeat(2, 1))
    assert [image.id for image in read_all([tmp_path])] == ["a", "c"]
    assert capsys.readouterr().err.splitlines() == [
        f"skipped: {tmp_path / 'b.txt'}: is not an image that Pillow reads, as it does JPEG and PNG",
        f"note: resized to 32x32: {tmp_path / 'c.png'}",
    ]


def test_notes_on_many_files_share_a_line(tmp_path, capsys):
    for number in range(5):
        save(tmp_path / f"{number}.png", IMAGES[number, :, :, 0])
    read_all([tmp_path])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: grey") and line.endswith("2.png and 2 more")


PLANES = IMAGES.transpose(0, 3, 1, 2).reshape(7, 3072)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("shape", ["flat", "planes", "images"])
def test_unlabelled_pickle_of_the_course(tmp_path, protocol, shape):
    data = {"flat": PLANES, "planes": PLANES.reshape(7, 3, 32, 32), "images": IMAGES}[shape]
    path = tmp_path / "cifar_test_nolabels.pkl"
    path.write_bytes(pickle.dumps({b"data": data}, protocol=protocol))
    images = read_all([path])
    assert [image.id for image in images] == list("0123456") and images[2].name == f"{path}[2]"
    np.testing.assert_array_equal([image.pixels for image in images], IMAGES)
    assert {image.label for image in images} == {None}


@pytest.mark.parametrize("ids", [np.arange(10, 17), list(range(10, 17)), [b"%d" % number for number in range(10, 17)]])
def test_pickle_with_ids(tmp_path, ids):
    path = tmp_path / "test.pkl"
    path.write_bytes(pickle.dumps({b"data": PLANES, b"ids": ids}))
    assert [image.id for image in read_all([path])] == [str(number) for number in range(10, 17)]


def test_labelled_batches_need_no_ending(tmp_path):
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps({b"data": PLANES, b"labels": [0, 1, 2, 3, 4, 5, 6]}, protocol=2))
    save(tmp_path / "e.png", IMAGES[0])
    images = read_all([tmp_path])
    assert [image.label for image in images] == [*range(7), None, *range(7)]
    assert images[8].name == f"{tmp_path / 'test_batch'}[0]"


BAD_PICKLES = {
    "truncated": lambda path: pickle.dumps({b"data": PLANES})[:900],
    "no data": lambda path: pickle.dumps({b"images": PLANES}),
    "floats": lambda path: pickle.dumps({b"data": PLANES / 255}),
    "another size": lambda path: pickle.dumps({b"data": PLANES[:, :100]}),
    "few labels": lambda path: pickle.dumps({b"data": PLANES, b"labels": [1, 2]}),
    "labels beyond the classes": lambda path: pickle.dumps({b"data": PLANES, b"labels": [10] * 7}),
    "negative labels": lambda path: pickle.dumps({b"data": PLANES, b"labels": [-1] * 7}),
    "empty": lambda path: b"",
}


@pytest.mark.parametrize("kind", BAD_PICKLES)
def test_bad_pickles_are_skipped(tmp_path, capsys, kind):
    (tmp_path / "bad.pkl").write_bytes(BAD_PICKLES[kind](tmp_path))
    save(tmp_path / "good.png", IMAGES[0])
    assert len(read_all([tmp_path])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"skipped: {tmp_path / 'bad.pkl'}: ")


# The classifier.


def test_logits_do_not_depend_on_batches(quickstart_run):
    classifier = jaxresnet.load(str(quickstart_run))
    assert (classifier.batch_size, classifier.class_names) == (64, tuple("0123456789"))
    logits = classifier.logits(DIGITS.images[:150])  # three batches, the last padded
    assert logits.shape == (150, 10) and logits.dtype == np.float32
    one = classifier.logits(DIGITS.images[130:131])
    np.testing.assert_allclose(one[0], logits[130], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(classifier.probabilities(DIGITS.images[:3]).sum(-1), 1, rtol=1e-6)
    assert classifier.logits(DIGITS.images[:0]).shape == (0, 10)


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 32, 32, 3)), np.zeros((32, 32), np.uint8), np.zeros((1, 0, 0, 3), np.uint8), ["no.png"]],
)
def test_logits_of_other_objects_are_refused(quickstart_run, images):
    with pytest.raises(UserError, match=r"expected uint8 of shape \(height, width, 3\)|no.png"):
        jaxresnet.load(str(quickstart_run)).logits(images)


def test_paths_pictures_and_pixels_are_images(quickstart_run, tmp_path):
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
    with pytest.raises(SystemExit):
        run(capsys, *arguments)
    return capsys.readouterr().err.splitlines()[-1]


def test_test_set_scores_as_evaluate(quickstart_run, tmp_path, capsys):
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


def test_submission_of_a_folder(quickstart_run, tmp_path, capsys):
    for index in range(12):
        save(tmp_path / "images" / f"{index + 1}.png", DIGITS.images[index])
    (tmp_path / "images" / "notes.txt").write_text("x")
    out = tmp_path / "submission.csv"
    printed = run(capsys, f"--workdir={quickstart_run}", tmp_path / "images", f"--out={out}")
    rows = list(csv.reader(out.open()))
    expected = jaxresnet.load(str(quickstart_run)).logits(DIGITS.images[:12]).argmax(-1)
    assert rows[0] == ["ID", "Labels"]
    assert dict(rows[1:]) == {str(index + 1): str(label) for index, label in enumerate(expected)}
    assert "notes.txt: is not an image" in printed.err
    header, first = printed.out.splitlines()[:2]
    assert header.split() == ["image", "predicted", "probability", "then"]
    assert re.search(r"1\.png +\d +\d+\.\d% +\d \d+\.\d%, \d \d+\.\d%$", first)
    assert "labelled" not in printed.out and "\n12 images\n" in printed.out


def test_picture_is_written(quickstart_run, tmp_path, capsys):
    grid = tmp_path / "wrong.png"
    run(capsys, f"--workdir={quickstart_run}", f"--grid={grid}")
    with Image.open(grid) as image:
        assert image.width > 1000 and image.height > 1000
        assert len(set(np.asarray(image.convert("L")).ravel().tolist())) > 50  # The picture is not blank.


@pytest.mark.parametrize("flag", ["--out=x.csv", "--out=x.jsonl", "--grid=x.png"])
def test_files_are_overwritten_only_with_force(quickstart_run, tmp_path, capsys, monkeypatch, flag):
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
        (["--grid=x.nothing"], "expected a name that ends in .png"),
        (["none.png"], "there is no such file"),
        (["a" * 300], "File name too long"),
        ([""], "a path is empty"),
        (["pipe"], "is neither a file nor a folder"),
        (["text.png", "--data_dir=x"], "--data_dir names the run's test set"),
        (["--checkpoint=7"], "--checkpoint=7: expected best, last, or one of"),
        (["text.png"], "none of these files could be read"),
        (["empty"], "empty: holds no files"),
    ],
)
def test_mistakes_get_one_line(quickstart_run, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert message in refuse(capsys, f"--workdir={quickstart_run}", *arguments)


@pytest.mark.reliability
def test_three_devices_predict_the_same(quickstart_run, tmp_path, subprocess_environment):
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


def test_picture_shows_most_confident_mistakes():
    rng = np.random.default_rng(0)
    predictions = [
        Prediction(str(index), "", rng.choice([None, 0, 1]), [rng.integers(2)], [rng.uniform(0.5, 1)])
        for index in range(300)
    ]
    order = [p.name for p in sorted(predictions, key=lambda p: -p.probabilities[0]) if p.is_wrong]
    assert 36 < len(order) < 300
    assert [p.name for _, p in choose([(None, p) for p in predictions])] == order[:36]
    few = [p for p in predictions if not p.is_wrong][:30]
    unknown = [p.name for p in few if p.label is None]
    known = [p.name for p in sorted(few, key=lambda p: p.probabilities[0]) if p.label is not None]
    assert [p.name for _, p in choose([(None, p) for p in few])] == unknown + known
