"""Progress of a run, saved beside its TrainState."""

import dataclasses
from typing import Any

from jaxresnet.core.evaluation import Sums


@dataclasses.dataclass
class Progress:
    """State of a run beside its TrainState, without which it could not resume. All but ``best_variables`` is JSON.

    Attributes:
        data_fingerprint: checksum of the data set. None if weights were imported and no data were read yet: the steps
            of the epochs before are not known then.
        settings: ``devices.settings()`` of the session; empty in older checkpoints.
        first_step: first step that this run takes itself. Not 0 if imported weights count as trained for epochs.
        epoch: running epoch, from 0.
        sums: sums of the training metrics over the steps of the running epoch.
        last: line of ``metrics.jsonl`` of the last evaluated epoch.
        best: ``epoch`` (from 1), ``step``, ``loss`` and ``accuracy`` (%) of the best epoch so far.
        best_variables: parameters and statistics of the best epoch so far, on the devices.
        train_seconds: time spent in training steps of finished epochs, compilation included.
        eval_seconds: time spent in evaluation of finished epochs, compilation included.
        confusion: confusion matrix of the last evaluation.
    """

    data_fingerprint: str | None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    first_step: int = 0
    epoch: int = 0
    sums: Sums = dataclasses.field(default_factory=Sums)
    last: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    best_variables: Any = dataclasses.field(default=None, compare=False)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    confusion: list[list[int]] | None = None

    def last_scores(self, split: str) -> dict[str, Any]:
        """Return ``epoch``, ``step``, ``loss`` and ``accuracy`` (%) of the last evaluation, made on ``split``."""
        assert self.last is not None
        scores = {name: self.last[f"{split}_{name}"] for name in ("loss", "accuracy")}
        return {"epoch": self.last["epoch"], "step": self.last["step"], **scores}

    def to_json(self) -> dict[str, Any]:
        """Return all fields but ``best_variables``."""
        fields = dataclasses.asdict(dataclasses.replace(self, best_variables=None))
        del fields["best_variables"]
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any], best_variables: Any) -> "Progress":
        """Invert ``to_json``."""
        return cls(**{**fields, "sums": Sums(**fields["sums"])}, best_variables=best_variables)
