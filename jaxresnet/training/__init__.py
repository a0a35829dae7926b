"""Training of a run: its inputs, its loop, and a function for scripts and notebooks."""

from jaxresnet.training.loop import train_and_evaluate
from jaxresnet.training.run import Run, train

__all__ = ["Run", "train", "train_and_evaluate"]
