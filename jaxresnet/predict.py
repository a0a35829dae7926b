"""Classify images with a run or a release. Without images, classify the run's own test set, and count the right ones.

    jaxresnet predict cat.jpg photos/
    jaxresnet predict --workdir=runs/final cat.jpg

Images of another size than the model's input are cropped to their central square and resized, with a note. Files that
are not images are skipped with a warning. --out=submission.csv writes ID,Labels. An ID is the name of an image file
without its ending, or the id or else the position of an image in a pickle. A label is the number of a class.
"""

import argparse
import csv
import io
import itertools
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxresnet import cli
from jaxresnet.config import load_config
from jaxresnet.data.batches import PickledImages, load_pickle
from jaxresnet.data.cifar import IMAGE_SIZE
from jaxresnet.data.images import read_images, to_pixels
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import PICTURES, default_style, output_file, to_json, write_figure, write_whole
from jaxresnet.system.terminal import format_table as align_columns
from jaxresnet.system.terminal import image_bar
from jaxresnet.workdir.folder import load_data

if TYPE_CHECKING:  # JAX takes seconds to import, so a mistyped flag is reported before that.
    from jaxresnet.inference import Classifier

TOP = 3  # classes reported for each image
ROWS = 20  # rows of the table on the terminal
NAME_WIDTH = 40  # characters in the table
GRID, COLUMNS = 36, 6  # images in the picture, and in one of its rows
NAMED = 3  # files listed in a note


class Image(NamedTuple):
    """An image to classify."""

    name: str  # to be shown, such as cat.png or test_batch[17]
    id: str  # for a submission
    pixels: np.ndarray  # (size, size, 3) uint8
    label: int | None  # true class, if it is known


class Prediction(NamedTuple):
    """Prediction of an image, without its pixels."""

    name: str
    id: str
    label: int | None
    top: list[int]  # the TOP most probable classes, or all if there are fewer, in descending order
    probabilities: list[float]  # of these classes, in [0, 1]

    @property
    def is_wrong(self) -> bool:
        """True if the true class is known and differs from the predicted one."""
        return self.label is not None and self.label != self.top[0]


# Images.


def find_files(paths: Sequence[str]) -> list[pathlib.Path]:
    """List the files that ``paths`` name, each once, where folders stand for all files below them but hidden ones.

    Raises:
        UserError: a path does not exist or is neither a file nor a folder, or a folder holds no files.
        OSError: a path cannot be read.
    """
    files: list[pathlib.Path] = []

    def fail(error: OSError) -> None:
        raise error  # os.walk would leave out a folder that cannot be read.

    for given in paths:
        path = user_path(given)
        if not path.exists():
            raise UserError(f"{given!r}: there is no such file or folder")
        inside = [path] if path.is_file() else []
        for parent, folders, names in os.walk(path, onerror=fail) if path.is_dir() else ():
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                if os.path.islink(os.path.join(parent, name)):  # It may lead back here, and the walk would never end.
                    print(f"skipped: {parent}/{name}: is a link to a folder; give it by name", file=sys.stderr)
            inside += [pathlib.Path(parent, name) for name in names if not name.startswith(".")]
        inside = [file for file in inside if not file.is_fifo()]  # Reading a pipe would never end.
        if not inside:
            raise UserError(f"{given}: holds no files" if path.is_dir() else f"{given}: is neither a file nor a folder")
        files += sorted(inside)
    return list(dict.fromkeys(files))


def read_files(files: Sequence[pathlib.Path], num_classes: int, bar: tqdm, size: int = IMAGE_SIZE) -> Iterator[Image]:
    """Yield the images in ``files``. Those that cannot be read are skipped with a line on stderr.

    Args:
        files: image files, and pickles such as CIFAR-10's.
        num_classes: number of classes, which labels in pickles must be below.
        bar: bar whose total counts each file as one image. It is corrected where a file holds none or more.
        size: height and width of the yielded images.
    """
    notes: dict[str, list[str]] = {}
    for is_pickle, group in itertools.groupby(files, _is_pickle):
        some = list(group)
        results = (_read_pickle(file, num_classes) for file in some) if is_pickle else read_images(some, size)
        for file, result in zip(some, results, strict=True):
            if isinstance(result, Exception):
                bar.total -= 1
                # Off a terminal, tqdm.write would draw the bar again after the line.
                write = tqdm.write if sys.stderr.isatty() else print
                write(f"skipped: {_printable(str(result))}", file=sys.stderr)
            elif isinstance(result, PickledImages):
                bar.total += len(result.images) - 1
                yield from images_of_array(_printable(file), to_pixels(result.images, size), result.labels, result.ids)
            else:
                for note in result[1]:
                    notes.setdefault(note, []).append(_printable(file))
                yield Image(_printable(file), _printable(file.stem), result[0], None)
    for note, names in notes.items():
        others = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        print(f"note: {note}: {', '.join(names[:NAMED])}{others}", file=sys.stderr)


def images_of_array(
    name: str, pixels: np.ndarray, labels: np.ndarray | None, ids: Sequence[str] | None = None
) -> Iterator[Image]:
    """Yield images (n, size, size, 3) uint8 as ``name[0]``, ``name[1]`` and so on, whose ids default to positions."""
    for position, image in enumerate(pixels):
        label = None if labels is None else int(labels[position])
        yield Image(f"{name}[{position}]", str(position) if ids is None else ids[position], image, label)


def _is_pickle(file: pathlib.Path) -> bool:
    """Return True if the ending or the first byte says so: CIFAR-10's have no ending, and no image has that byte."""
    try:
        with file.open("rb") as opened:
            return opened.read(1) == b"\x80" or file.suffix in (".pkl", ".pickle")
    except OSError:  # Reading it as an image will report the error.
        return False


def _read_pickle(file: pathlib.Path, num_classes: int) -> PickledImages | Exception:
    try:
        result = load_pickle(file)
        if result.labels is not None and result.labels.max() >= num_classes:
            raise UserError(f"{file}: has labels up to {result.labels.max()}; the model has {num_classes} classes")
        return result
    except (UserError, OSError) as error:
        return error


def _printable(text: str | pathlib.Path) -> str:
    """Replace unprintable characters: file names can hold line breaks and bytes of no encoding."""
    decoded = os.fsencode(text).decode(errors="replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in decoded)


# Predictions, and their formats.


def predict(classifier: "Classifier", images: Iterator[Image]) -> Iterator[tuple[np.ndarray, Prediction]]:
    """Yield each image's pixels and prediction."""
    size = 0
    while batch := list(itertools.islice(images, classifier.batch_size)):
        size = size or len(batch)  # The last batch is padded to the size of the others, to compile one program for all.
        logits = classifier.logits_of_batch(np.stack([image.pixels for image in batch]), size)
        probabilities = classifier.to_probabilities(logits)
        top = np.argsort(-probabilities, axis=-1, kind="stable")[:, :TOP]
        chances = np.take_along_axis(probabilities, top, -1)
        for image, classes, row in zip(batch, top.tolist(), chances.tolist(), strict=True):
            yield image.pixels, Prediction(image.name, image.id, image.label, classes, row)


def format_table(predictions: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """Format the first ``ROWS`` predictions as a table, and count the rest. True classes are shown if any is known."""
    has_labels, table = any(prediction.label is not None for prediction in predictions), []
    for name, _, label, classes, probabilities in predictions[:ROWS]:
        shown = name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}"
        (best, chance), *others = zip([class_names[each] for each in classes], probabilities, strict=True)
        then = ", ".join(f"{other} {100 * less:.1f}%" for other, less in others)
        truth = ["" if label is None else class_names[label]] * has_labels
        table.append([shown, *truth, best, f"{100 * chance:.1f}%", then])
    more = f"\n... and {len(predictions) - ROWS:,} more" if len(predictions) > ROWS else ""
    return align_columns(["image", *["is"] * has_labels, "predicted", "probability", "then"], table, left=5) + more


def to_submission(predictions: Sequence[Prediction]) -> str:
    """Return CSV with ``ID,Labels`` for the course's competition: a class number per image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "Labels"])
    writer.writerows([prediction.id, prediction.top[0]] for prediction in predictions)
    return text.getvalue()


def to_json_lines(predictions: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """Return one JSON object per image.

    The fields are ``image``, ``id``, ``label``, ``class``, ``probability``, ``top`` and, if known, ``true_class``.
    """
    lines = []
    for name, id_, truth, classes, probabilities in predictions:
        pairs = zip(classes, probabilities, strict=True)
        top = [{"class": class_names[label], "probability": chance} for label, chance in pairs]
        line = {"image": name, "id": id_, "label": classes[0], **top[0], "top": top}
        line |= {} if truth is None else {"true_class": class_names[truth]}
        lines.append(to_json(line) + "\n")
    return "".join(lines)


def choose(pairs: Sequence[tuple[np.ndarray, Prediction]]) -> list[tuple[np.ndarray, Prediction]]:
    """Return ``GRID`` images to draw: confident mistakes first, then unlabelled ones in order, then unsure hits."""

    def rank(pair: tuple[np.ndarray, Prediction]) -> tuple[int, float]:
        confidence = pair[1].probabilities[0]
        return (0, -confidence) if pair[1].is_wrong else (1, 0) if pair[1].label is None else (2, confidence)

    return sorted(pairs, key=rank)[:GRID]


def draw(pairs: Sequence[tuple[np.ndarray, Prediction]], class_names: Sequence[str]) -> Any:
    """Return a figure of images with their predicted classes and probabilities.

    If the true class is known, the text is green for correct and red for wrong predictions. Wrong ones also show it.
    """
    from matplotlib.figure import Figure  # imported here because it takes a second

    columns = min(COLUMNS, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(max(1.45 * columns, 3), 1.9 * rows), layout="constrained")
    for axes, pair in itertools.zip_longest(figure.subplots(rows, columns, squeeze=False).flat, pairs):
        axes.axis("off")
        if pair is None:
            continue
        pixels, prediction = pair
        axes.imshow(pixels, interpolation="nearest")
        text = f"{class_names[prediction.top[0]]} {100 * prediction.probabilities[0]:.0f}%"
        colour = "black" if prediction.label is None else "#cc3311" if prediction.is_wrong else "#117733"
        axes.set_title(text, fontsize=9, color=colour, pad=3, parse_math=False)  # A class may be called "$".
        if prediction.label is not None and prediction.is_wrong:
            style = dict(transform=axes.transAxes, ha="center", va="top", fontsize=8, parse_math=False)
            axes.text(0.5, -0.03, f"is {class_names[prediction.label]}", **style)
    return figure


# The command.


def run(arguments: argparse.Namespace) -> None:
    """Run the command with parsed ``arguments``."""
    from jaxresnet.inference import load
    from jaxresnet.system.devices import set_up_jax

    set_up_jax()
    out = arguments.out and output_file("--out", arguments.out, arguments.force, (".csv", ".jsonl"))
    grid = arguments.grid and output_file("--grid", arguments.grid, arguments.force, PICTURES)
    config, files = load_config(arguments.workdir), find_files(arguments.images)
    if files and arguments.data_dir:
        raise UserError("--data_dir names the run's test set, but images are given, so it is not read; leave it out")
    images: Iterator[Image] | None = None
    if not files:
        dataset = load_data(config, arguments.workdir, arguments.data_dir)
        images = images_of_array("test", dataset.test.images, dataset.test.labels)
    classifier = load(arguments.workdir, arguments.checkpoint)

    predictions: list[Prediction] = []
    shown: list[tuple[np.ndarray, Prediction]] = []
    with image_bar(len(files) or len(dataset.test)) as bar:
        for pair in predict(
            classifier, images or read_files(files, config.model.num_classes, bar, classifier.image_size)
        ):
            predictions.append(pair[1])
            if grid:
                shown = shown if len(shown) < 2 * GRID else choose(shown)  # Other pixels are not kept.
                shown.append(pair)
            bar.update()
    if not predictions:
        raise UserError("none of these files could be read as an image")

    if out:  # Files come first, because stdout can fail, as a closed pipe does.
        is_csv = out.suffix == ".csv"
        write_whole(out, to_submission(predictions) if is_csv else to_json_lines(predictions, classifier.class_names))
    if grid:
        with default_style():
            write_figure(grid, draw(choose(shown), classifier.class_names))
    print(format_table(predictions, classifier.class_names))
    known = sum(prediction.label is not None for prediction in predictions)
    wrong = sum(prediction.is_wrong for prediction in predictions)
    right = f"; {100 * (1 - wrong / known):.2f}% of {known:,} labelled images right" if known else ""
    print(f"{len(predictions):,} image{'s' if len(predictions) > 1 else ''}{right}")
    for file in filter(None, (out, grid)):
        print(file)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    parser = cli.Parser("predict", __doc__)
    images_help = "image files, folders of them, or pickles such as CIFAR-10's; default: the run's test set"
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=images_help)
    parser.add_run()
    parser.add_argument("--out", help="file for all predictions: .csv (ID,Labels) or .jsonl")
    parser.add_argument("--grid", help=f"picture of {GRID} images and predictions, the most confidently wrong first")
    parser.add_argument("--data_dir", help="location of the run's data, if moved since training")
    parser.add_argument("--force", action="store_true", help="overwrite the files that --out and --grid name")
    cli.run(run, parser, argv)


if __name__ == "__main__":
    main()
