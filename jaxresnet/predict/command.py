"""Command that classifies images: ``python -m jaxresnet.predict --workdir=runs/final cat.jpg photos/``."""

import argparse
import time
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from scipy.special import softmax

from jaxresnet import cli
from jaxresnet.config import load_config
from jaxresnet.data.loading import load_dataset
from jaxresnet.inference import Classifier, load
from jaxresnet.predict.inputs import FileReader, Images, find_files, split_batches
from jaxresnet.predict.results import (
    TOP,
    Predictions,
    format_table,
    join,
    to_json_lines,
    to_submission,
    with_unique_ids,
)
from jaxresnet.system.devices import set_up_jax
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import PICTURES, output_file
from jaxresnet.system.terminal import image_bar
from jaxresnet.workdir.folder import check_class_names

ROWS = 20  # rows of the table on the terminal
GRID = 36  # images in the picture

DESCRIPTION = """
Classify images with a run or a release. Without images, classify the run's own test set, and say how many are right.
The three likeliest classes of each image are printed.
"""
EPILOG = """
Images that are not 32x32 are cropped to their central square and resized, with a note. Files that are not images are
skipped with a warning. --out=submission.csv writes ID,Labels. An ID is the name of an image file without its ending, or
the id or else the position of an image in a pickle. If two IDs are the same, full names are used. A label is the number
of a class.
"""


def predict(classifier: Classifier, batches: Iterable[Images]) -> Iterator[tuple[np.ndarray, Predictions]]:
    """Classify images batch by batch. The next batch is read while the devices compute.

    Yields:
        The pixels of each batch and its predictions.
    """
    running: tuple[Images, jax.Array] | None = None
    largest = 0  # Smaller batches are padded to it, to compile one program for all.
    for images in batches:
        largest = max(largest, len(images.names))
        started = images, classifier.logits_async(images.pixels, largest)
        if running is not None:
            yield _result(*running)
        running = started
    if running is not None:
        yield _result(*running)


def _result(images: Images, logits: jax.Array) -> tuple[np.ndarray, Predictions]:
    probabilities = softmax(np.asarray(logits)[: len(images.names)], axis=-1)
    top = np.argsort(-probabilities, axis=-1, kind="stable")[:, :TOP]
    return images.pixels, Predictions(
        images.names, images.ids, images.labels, top, np.take_along_axis(probabilities, top, -1)
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command with parsed ``arguments``."""
    set_up_jax()
    out = grid = gallery = reader = None
    if arguments.out:
        out = output_file("--out", arguments.out, arguments.force, (".csv", ".jsonl"))
    if arguments.grid:
        grid = output_file("--grid", arguments.grid, arguments.force, PICTURES)
        from jaxresnet.predict.grid import Gallery  # imported here because it takes a second

        gallery = Gallery(GRID)
    config = load_config(user_path(arguments.workdir))
    if arguments.images and arguments.data_dir:
        raise UserError("--data_dir names the run's test set, but images are given, so it is not read; leave it out")
    if arguments.images:
        reader = FileReader(find_files(arguments.images), config.model.num_classes)
    else:
        data_dir = config.dataset.data_dir if arguments.data_dir is None else arguments.data_dir
        dataset = load_dataset(config.dataset.name, data_dir, config.model.num_classes)
        check_class_names(user_path(arguments.workdir), config, dataset.class_names)
        test = dataset.test
    classifier = load(arguments.workdir, arguments.checkpoint)
    batches = reader.batches(classifier.batch_size) if reader else split_batches(test, classifier.batch_size)

    parts, start = [], time.monotonic()
    with image_bar(reader.total if reader else len(test)) as bar:
        for pixels, part in predict(classifier, batches):
            parts.append(part)
            if gallery:
                gallery.add(pixels, part)
            bar.total = reader.total if reader else len(test)
            bar.update(len(part))
    seconds = time.monotonic() - start
    if not parts:
        raise UserError("none of these files could be read as an image")

    predictions = with_unique_ids(join(parts))
    print(format_table(predictions, classifier.class_names, ROWS))
    known = int(predictions.labelled.sum())
    right = f"; {100 * (1 - predictions.wrong.sum() / known):.2f}% of {known:,} labelled images right" if known else ""
    images = f"{len(predictions):,} image{'s' if len(predictions) > 1 else ''}"
    print(f"{images} in {seconds:.1f} s, {len(predictions) / seconds:,.0f} per second{right}")
    if out:
        is_csv = out.path.suffix == ".csv"
        out.write(to_submission(predictions) if is_csv else to_json_lines(predictions, classifier.class_names))
        print(out.path)
    if grid and gallery:
        grid.write_figure(gallery.draw(classifier.class_names))
        print(grid.path)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    parser = cli.Parser("predict", DESCRIPTION + EPILOG)
    images_help = "image files, folders of them, or pickles such as CIFAR-10's; default: the run's test set"
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=images_help)
    parser.add_argument("--workdir", required=True, help="run directory or release")
    parser.add_argument("--checkpoint", default="last", help=cli.CHECKPOINT_HELP)
    parser.add_argument("--out", help="file for all predictions: .csv (ID,Labels) or .jsonl")
    parser.add_argument("--grid", help=f"picture of {GRID} images and predictions, the most confidently wrong first")
    parser.add_argument("--data_dir", help="location of the run's data, if moved since training")
    parser.add_argument("--force", action="store_true", help="overwrite the files that --out and --grid name")
    cli.run(run, parser, argv)
