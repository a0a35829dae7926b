"""A picture of images with what they were taken for."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxresnet.predictions import Predictions, join, select

COLUMNS = 6
RIGHT, WRONG, UNKNOWN = "#117733", "#cc3311", "black"


class Gallery:
    """Chooses the images to draw while they pass: the most confidently wrong ones first; then those whose label is not
    known, in order; then the right ones, the least certain first."""

    def __init__(self, size: int):
        self._size, self._seen = size, 0
        self._kept: tuple[np.ndarray, np.ndarray, Predictions] | None = None

    def add(self, pixels: np.ndarray, predictions: Predictions) -> None:
        """Looks at images (size, 32, 32, 3) uint8 and what was predicted of them."""
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
        """The chosen images, with what they were taken for."""
        assert self._kept is not None  # add was called
        _, pixels, predictions = self._kept
        return draw_predictions(pixels, predictions, class_names)


def draw_predictions(pixels: np.ndarray, predictions: Predictions, class_names: Sequence[str]) -> Figure:
    """Each image with its class and probability; where the true class is known, in green or red, and what a wrong one
    really is."""
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
