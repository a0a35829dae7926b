"""Training as a function for scripts and notebooks."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxresnet.inference import Classifier, load
from jaxresnet.system.errors import user_path
from jaxresnet.training.loop import train_and_evaluate
from jaxresnet.workdir.log import is_epoch_line, read_metrics


class Run(NamedTuple):
    """A trained run.

    Attributes:
        workdir: run directory.
        classifier: classifier of the last epoch.
        summary: what ``train_and_evaluate`` returns.
        metrics: columns of ``metrics.jsonl`` at evaluated epochs, by name: ``epoch``, ``train_loss``,
            ``test_accuracy`` and so on. ``pandas.DataFrame`` accepts them.
    """

    workdir: pathlib.Path
    classifier: Classifier
    summary: dict[str, Any]
    metrics: dict[str, np.ndarray]


def train(config: ConfigDict, workdir: str | pathlib.Path) -> Run:
    """Train in ``workdir``, or resume the run that is already there, and return what was trained.

    Args:
        config: config with the fields of ``configs/default.py``, such as ``jaxresnet.get_config("final")``.
        workdir: run directory.

    Raises:
        UserError: config, workdir or data set that cannot work.
        Diverged: the loss or a parameter became NaN or infinite.
        Interrupted: a signal came and the run was saved.
    """
    folder = user_path(str(workdir))
    summary = train_and_evaluate(config, str(folder))
    lines = [line for line in read_metrics(folder) if is_epoch_line(line)]
    names = lines[-1] if lines else ()  # the log of a finished run may be gone
    metrics = {name: np.array([line[name] for line in lines]) for name in names}
    return Run(folder, load(str(folder)), summary, metrics)
