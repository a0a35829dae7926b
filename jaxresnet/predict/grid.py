"""Picture of images and their predicted classes."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxresnet.predict.results import Predictions, join, select

COLUMNS = 6
RIGHT, WRONG, UNKNOWN = "#117733", "#cc3311", "black"


class Gallery:
    """Selection of the images to draw, updated batch by batch.

    Wrong predictions come first, the most confident at the front. Unlabelled images follow in order, then correct
    predictions, the least confident first.
    """

    def __init__(self, size: int):
        self._size, self._seen = size, 0
        self._kept: tuple[np.ndarray, np.ndarray, Predictions] | None = None

    def add(self, pixels: np.ndarray, predictions: Predictions) -> None:
        """Consider images (size, 32, 32, 3) uint8 and their predictions."""
        confidence = predictions.probabilities[:, 0]
        position = self._seen + np.arange(len(predictions))
        kind = np.select([predictions.wrong, ~predictions.labelled], [0, 1], 2)
        rank = np.stack([kind, np.select([kind == 0, kind == 1], [-confidence, position], confidence)], axis=1)
        self._seen += len(predictions)
        if self._kept is not None:
            ranks, images, before = self._kept
            rank, pixels = np.concatenate([ranks, rank]), np.concatenate([images, pixels])
            predictions = join([before, predictions])
        chosen = np.lexsort((rank[:, 1], rank[:, 0]))[: self._size]
        self._kept = rank[chosen], pixels[chosen], select(predictions, chosen)

    def draw(self, class_names: Sequence[str]) -> Figure:
        """Draw the chosen images and their predictions."""
        assert self._kept is not None  # add must be called first
        _, pixels, predictions = self._kept
        return draw_predictions(pixels, predictions, class_names)


def draw_predictions(pixels: np.ndarray, predictions: Predictions, class_names: Sequence[str]) -> Figure:
    """Draw each image with its predicted class and probability.

    If the true class is known, the text is green for correct and red for wrong predictions. Wrong ones also show it.
    """
    columns = min(COLUMNS, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    figure = Figure(figsize=(max(1.45 * columns, 3), 1.9 * rows), layout="constrained")
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if index >= len(pixels):
            continue
        axes.imshow(pixels[index], interpolation="nearest")
        text = f"{class_names[predictions.top[index, 0]]} {100 * predictions.probabilities[index, 0]:.0f}%"
        colour = WRONG if predictions.wrong[index] else RIGHT if predictions.labelled[index] else UNKNOWN
        axes.set_title(text, fontsize=9, color=colour, pad=3)
        if predictions.wrong[index]:
            truth = f"is {class_names[predictions.labels[index]]}"
            axes.text(0.5, -0.03, truth, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    return figure
