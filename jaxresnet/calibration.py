"""Confidences: how honest a model's probabilities are, and the temperature that makes them so.

Probabilities are softmax(logits / temperature). A temperature changes no prediction. It is fitted on images that the
model was not trained on (Guo et al., "On Calibration of Modern Neural Networks", 2017).
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

NUM_BINS = 15  # as in the paper
LARGEST = 8.0  # temperature that is fitted; the smallest is 1 / 8


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature in [1/8, 8] that gives the labels the least negative log-likelihood.

    Args:
        logits: (size, classes), of images that the model was not trained on.
        labels: (size,), true classes.
    """
    bounds = (-np.log(LARGEST), np.log(LARGEST))
    found = minimize_scalar(lambda x: negative_log_likelihood(logits, labels, np.exp(x)), bounds=bounds)
    return float(np.exp(found.x))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean of -log(probability of the true class), for logits (size, classes) and labels (size,)."""
    scaled = log_softmax(logits.astype(np.float64) / temperature, axis=-1)
    return float(-scaled[np.arange(len(labels)), labels].mean())


class Reliability(NamedTuple):
    """Predictions in ``NUM_BINS`` bins of equal width by confidence, the probability of the predicted class."""

    counts: np.ndarray  # number of predictions in each bin
    confidence: np.ndarray  # mean confidence in each bin, in [0, 1]; 0 where a bin is empty
    accuracy: np.ndarray  # share of right predictions in each bin, likewise

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of all predictions, which honest ones have equal to the accuracy."""
        return float(np.average(self.confidence, weights=self.counts))

    @property
    def error(self) -> float:
        """Expected calibration error (ECE): mean distance of a bin's confidence and accuracy, weighted by count."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.counts))


def reliability(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Reliability:
    """Sort predictions into bins: bin m of M holds confidences above (m - 1) / M and up to m / M."""
    confidence = softmax(logits.astype(np.float64) / temperature, axis=-1).max(-1)
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    counts, confident, right = (
        np.bincount(bins, weights, NUM_BINS) for weights in (None, confidence, logits.argmax(-1) == labels)
    )
    return Reliability(counts, confident / np.maximum(counts, 1), right / np.maximum(counts, 1))


def draw_reliability(reliability: Reliability, title: str) -> Any:
    """Return a figure of the accuracy in each bin, over the diagonal of honest confidences, and of the bins' shares."""
    from matplotlib.figure import Figure  # imported here because it takes a second

    figure, width = Figure(figsize=(5, 5.5), layout="constrained"), 1 / NUM_BINS
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled, middles = reliability.counts > 0, (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    above.bar(
        middles[filled], reliability.accuracy[filled], width, color="#4477aa", edgecolor="white", label="accuracy"
    )
    above.plot(reliability.confidence[filled], reliability.confidence[filled], "o", color="#cc3311", label="confidence")
    above.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"{title}: ECE {100 * reliability.error:.1f}%")
    above.legend(loc="upper left")
    below.bar(middles, reliability.counts / reliability.counts.sum(), width, color="#bbbbbb", edgecolor="white")
    below.set(xlabel="confidence", ylabel="share of images")
    return figure
