"""How far a run has come, beside its TrainState."""

import dataclasses
from typing import Any

from jaxresnet.metrics import Sums


@dataclasses.dataclass
class Progress:
    """What a resumed run needs beside its TrainState, all of it JSON.

    Attributes:
        epoch: the one running, from 0.
        sums: of the training metrics of that epoch's steps so far.
        last: the line of ``metrics.jsonl`` of the last epoch that was evaluated.
        best: ``epoch`` (from 1), ``step``, ``loss`` and ``accuracy`` (%) of the best epoch yet.
        train_seconds: spent in the training steps of the epochs before, compilation included.
        eval_seconds: likewise in their evaluation.
        confusion: the confusion matrix of the last evaluation.
        data_fingerprint: of the data set that the run reads; None where weights were imported and no data were read
            yet, so that it is not known how many steps the epochs before took.
        first_step: that this run itself takes; not 0 where imported weights have epochs behind them.
    """

    data_fingerprint: str | None
    first_step: int = 0
    epoch: int = 0
    sums: Sums = dataclasses.field(default_factory=Sums)
    last: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    confusion: list[list[int]] | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Progress":
        """What ``dataclasses.asdict`` made of one."""
        return cls(**{**fields, "sums": Sums(**fields["sums"])})
