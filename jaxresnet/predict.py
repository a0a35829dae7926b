"""Classifies images: ``python -m jaxresnet.predict --workdir=runs/final cat.jpg photos/``."""

import argparse
import math
import pathlib
import time
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from jaxresnet import cli
from jaxresnet.config import load_config
from jaxresnet.datasets import load_dataset
from jaxresnet.errors import UserError, user_path
from jaxresnet.files import output_path, write_picture
from jaxresnet.inference import Classifier, load
from jaxresnet.predictions import TOP, Predictions, format_table, join, write_json_lines, write_submission
from jaxresnet.sources import FileReader, Images, find_files, split_batches

ROWS = 20  # of the table on the terminal
GRID = 36  # images in the picture

EPILOG = """
Images that are not 32x32 are cut to their central square and resized, and a note says so. What is no image is named
and left out. --out=submission.csv writes ID,Labels: an ID is what a pickle calls an image, or else its position in it,
or the name of an image file without its ending; a label is the number of a class.
"""


def predict(
    classifier: Classifier, batches: Iterable[Images], batch_size: int
) -> Iterator[tuple[np.ndarray, Predictions]]:
    """Classifies batches of up to ``batch_size`` images. The next one is read while the devices compute.

    Yields:
        The pixels of each batch, and what the classifier says of them.

    Raises:
        UserError: labels that the classifier does not know.
    """
    running: tuple[Images, jax.Array] | None = None
    for images in batches:
        if images.labels.max() >= len(classifier.class_names):
            raise UserError(
                f"{images.names[0]}: there are labels up to {images.labels.max()} in this file, and the model knows "
                f"{len(classifier.class_names)} classes"
            )
        dispatched = images, classifier.dispatch(images.pixels, batch_size)
        if running is not None:
            yield _result(*running)
        running = dispatched
    if running is not None:
        yield _result(*running)


def _result(images: Images, logits: jax.Array) -> tuple[np.ndarray, Predictions]:
    probabilities = softmax(np.asarray(logits)[: len(images.names)], axis=-1)
    top = np.argsort(-probabilities, axis=-1, kind="stable")[:, :TOP]
    return images.pixels, Predictions(
        images.names, images.ids, images.labels, top, np.take_along_axis(probabilities, top, -1)
    )


def _read(arguments: argparse.Namespace, batch_size: int) -> tuple[Iterable[Images], int]:
    """The images that the command asks for, in batches, and how many a batch holds at most."""
    if arguments.images:
        reader = FileReader(find_files(arguments.images))
        batch_size = reader.batch_size(batch_size)
        return reader.batches(batch_size), batch_size
    config = load_config(user_path(arguments.workdir))
    data_dir = config.dataset.data_dir if arguments.data_dir is None else arguments.data_dir
    test = load_dataset(config.dataset.name, data_dir, config.model.num_classes).test
    batch_size = min(batch_size, len(test))
    batches = split_batches(test, batch_size)
    return tqdm(
        batches, total=math.ceil(len(test) / batch_size), unit=" batches", disable=None, leave=False
    ), batch_size


def _write(predictions: Predictions, classifier: Classifier, out: pathlib.Path) -> None:
    try:
        if out.suffix == ".csv":
            write_submission(predictions, out)
        else:
            write_json_lines(predictions, classifier.class_names, out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written ({error})") from error


def run(arguments: argparse.Namespace) -> None:
    """The command."""
    out = output_path("--out", arguments.out, arguments.force) if arguments.out else None
    grid = output_path("--grid", arguments.grid, arguments.force) if arguments.grid else None
    if out and out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--out={out}: expected a name that ends in .csv or .jsonl")
    classifier = load(arguments.workdir, arguments.checkpoint)
    batches, batch_size = _read(arguments, classifier.batch_size)
    gallery = None
    if grid:
        from jaxresnet.gallery import Gallery  # drawing takes a second to import

        gallery = Gallery(GRID)

    parts, start = [], time.monotonic()
    for pixels, part in predict(classifier, batches, batch_size):
        parts.append(part)
        if gallery:
            gallery.add(pixels, part)
    seconds = time.monotonic() - start
    if not parts:
        raise UserError("none of these files could be read as an image")

    predictions = join(parts)
    print(format_table(predictions, classifier.class_names, ROWS))
    known = int(predictions.labelled.sum())
    right = f"; {100 * (1 - predictions.wrong.sum() / known):.2f}% of {known:,} labelled ones right" if known else ""
    print(f"{len(predictions):,} images in {seconds:.1f} s, {len(predictions) / seconds:,.0f} a second{right}")
    if out:
        _write(predictions, classifier, out)
        print(out)
    if gallery:
        write_picture(gallery.draw(classifier.class_names), grid, "--grid")
        print(grid)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m jaxresnet.predict", description="Classifies images.", epilog=EPILOG
    )
    images_help = "image files, folders of them, or pickles such as CIFAR-10's; none: the run's test set"
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=images_help)
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument(
        "--checkpoint", default="last", help='"last" (the default), "best", or the number of a step that was kept'
    )
    parser.add_argument("--out", help="a file for all predictions: .csv (ID,Labels) or .jsonl")
    parser.add_argument("--grid", help=f"a picture of {GRID} images and predictions, the most confidently wrong first")
    parser.add_argument("--data_dir", help="where the data lie now, if elsewhere than when the run was trained")
    parser.add_argument("--force", action="store_true", help="overwrite what --out and --grid name")
    arguments = parser.parse_args(argv)
    with cli.command():
        run(arguments)


if __name__ == "__main__":
    main()
