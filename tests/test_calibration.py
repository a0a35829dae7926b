"""Temperatures and calibration errors, against values computed by hand and by PyTorch."""

import numpy as np
import pytest

from jaxresnet.calibration import NUM_BINS, fit_temperature, negative_log_likelihood, reliability
from tests.torch_reference import F, from_torch, torch


def logits_of(confidences):
    """Return logits of two classes, of which the first is predicted with these probabilities."""
    confidences = np.array(confidences)
    return np.stack([np.log(confidences), np.log1p(-confidences)], -1)


def test_error_of_four_predictions_by_hand():
    # Bins 12, 12, 15 and 15: 0.75 and 0.76 with one of two right, 0.99 and 0.95 with both.
    bins = reliability(logits_of([0.75, 0.76, 0.99, 0.95]), np.array([0, 1, 0, 0]))
    assert bins.counts[11] == bins.counts[14] == 2 and bins.counts.sum() == 4
    assert bins.error == pytest.approx((2 * abs(0.755 - 0.5) + 2 * abs(0.97 - 1)) / 4)
    assert bins.mean_confidence == pytest.approx(0.8625)


def test_error_equals_torchs_loop_over_bins():
    """The reference is the loop of Guo et al., with its open lower and closed upper bounds."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5000, 10)) * 2, rng.integers(10, size=5000)
    labels = np.where(rng.random(5000) < 0.6, logits.argmax(-1), labels)

    def loop_over_bins():
        confidences, predictions = torch.softmax(torch.from_numpy(logits) / 1.5, 1).max(1)
        right, error = predictions.eq(torch.from_numpy(labels)), 0.0
        for lower in torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64)[:-1]:
            inside = confidences.gt(lower) & confidences.le(lower + 1 / NUM_BINS)
            if inside.any():
                error += inside.double().mean() * abs(confidences[inside].mean() - right[inside].double().mean())
        return {"error": error, "loss": F.cross_entropy(torch.from_numpy(logits) / 1.5, torch.from_numpy(labels))}

    expected = from_torch("calibration/bins", loop_over_bins)
    assert reliability(logits, labels, 1.5).error == pytest.approx(float(expected["error"]), abs=1e-9)
    assert negative_log_likelihood(logits, labels, 1.5) == pytest.approx(float(expected["loss"]))


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_fit_finds_the_temperature(true):
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 10)) * 3
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(-1)  # drawn from softmax(honest)
    assert fit_temperature(honest * true, labels) == pytest.approx(true, rel=0.03)
    assert reliability(honest * true, labels, true).error < 0.01 < reliability(honest * true * 3, labels, true).error
