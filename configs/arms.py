"""The arms of a table: what each changes of the baseline, and what the paper reports for it.

Not a config itself. A file with arms has ``TITLE``, ``ARMS``, and a ``get_config`` that takes the name of one.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs import baseline


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        changes: of the baseline, by field, as in ``{"schedule.name": "linear"}``. Empty: the baseline itself.
        paper: the test accuracy that the paper reports, in %; ``None`` for arms that it does not have.
        curve: the authors' log of the run in ``jaxresnet/paper_curves.csv``, where it survives.
    """

    changes: dict[str, Any]
    paper: float | None = None
    curve: str | None = None


# The row that stands in every table.
BASELINE = Arm({}, 95.48, "baseline")


def choose(table: str, arms: dict[str, Arm], name: str) -> ConfigDict:
    """The config of the arm of that ``name``. Rows that are the baseline share its name, and so its runs.

    Raises:
        ValueError: there is no such arm; the message lists those there are.
    """
    if name not in arms:
        raise ValueError(f"there is no arm {name!r}; expected one of {', '.join(arms)}")
    arm = arms[name]
    config = baseline.get_config()
    if arm.changes:
        config.name = f"{table}/{name}"
    config.update_from_flattened_dict(arm.changes)
    config.paper.accuracy = arm.paper
    config.paper.curve = arm.curve
    return config
