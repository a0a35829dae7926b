"""Evaluation of a whole split, with each image counted once."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxresnet.core.programs import DeviceSplit, Steps, dispatch, eval_batch_size, eval_batches, steps_per_dispatch
from jaxresnet.core.state import TrainState


@dataclasses.dataclass
class Sums:
    """Sums over images. Means are taken once, at the end."""

    loss: float = 0.0  # total cross entropy
    correct: int = 0  # number of images whose largest logit is that of their label
    count: int = 0  # number of images
    seconds: float = 0.0  # time spent on the images

    def add(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Add the metrics of several steps in float64, in order, so that resumed and uninterrupted sums are equal."""
        self.seconds += seconds
        for loss, correct, count in zip(metrics["loss"], metrics["correct"], metrics["count"], strict=True):
            self.loss += float(loss)
            self.correct += int(correct)
            self.count += int(count)

    @property
    def images_per_second(self) -> float:
        """Throughput in images per second."""
        return self.count / self.seconds

    def means(self, prefix: str) -> dict[str, float]:
        """Return ``{prefix}_loss`` and ``{prefix}_accuracy``, the latter in %."""
        return {f"{prefix}_loss": self.loss / self.count, f"{prefix}_accuracy": 100 * self.correct / self.count}


class Scores(NamedTuple):
    """Result of an evaluation."""

    sums: Sums
    confusion: Int[np.ndarray, "classes classes"]  # images by true class (row) and predicted class (column)
    logits: Float[np.ndarray, "size classes"]
    labels: Int[np.ndarray, " size"]


def evaluate(
    steps: Steps,
    state: TrainState,
    data: DeviceSplit,
    size: int,
    batch_size: int,
    after_dispatch: Callable[[int], Any] = lambda images: None,
) -> Scores:
    """Score all ``size`` images of ``data``, each counted once, in batches of up to ``eval_batch_size(batch_size)``.

    ``after_dispatch`` is called with the number of images that the last dispatch scored.
    """
    sums, confusions, logits = Sums(), [], []
    batch_size = min(eval_batch_size(batch_size), size)
    at_once = steps_per_dispatch(-(-size // batch_size))
    for indices, mask in eval_batches(size, batch_size, at_once):
        start = time.monotonic()
        metrics = jax.device_get(dispatch(steps.evaluate, state, data, indices, mask))
        sums.add(metrics, time.monotonic() - start)
        confusions.append(metrics["confusion"].sum(0))
        logits += [*metrics["logits"]]
        after_dispatch(int(mask.sum()))
    return Scores(sums, np.sum(confusions, axis=0), np.concatenate(logits)[:size], np.asarray(data.labels))
