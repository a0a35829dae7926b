"""Arms of the paper's tables: changes to the baseline, with the accuracy that the paper reports.

This file is not a config. A config file with arms has ``TITLE``, ``ARMS``, and a ``get_config`` that takes an arm's
name.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs import baseline


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        changes: changed fields of the baseline, as in ``{"schedule.name": "linear"}``; empty for the baseline itself.
        paper: test accuracy that the paper reports, in %; ``None`` for arms that it does not have.
        curve: name of the authors' log in ``jaxresnet/report/paper_curves.csv``; ``None`` if no log survives.
        shares_runs_with: name of the experiment of another table that has the same config, such as
            ``"pooling/adaptive"``; ``None`` if the arm has runs of its own.
    """

    changes: dict[str, Any]
    paper: float | None = None
    curve: str | None = None
    shares_runs_with: str | None = None


# Every table has this row.
BASELINE = Arm({}, 95.48, "baseline")


def choose(table: str, arms: dict[str, Arm], name: str) -> ConfigDict:
    """Return the config of the arm ``name``. Rows that equal the baseline share its name, and so its runs.

    Raises:
        ValueError: there is no such arm. The message lists all arms.
    """
    if name not in arms:
        raise ValueError(f"there is no arm {name!r}; expected one of {', '.join(arms)}")
    arm = arms[name]
    config = baseline.get_config()
    if arm.changes:
        config.name = arm.shares_runs_with or f"{table}/{name}"
    config.update_from_flattened_dict(arm.changes)
    config.paper.accuracy = arm.paper
    config.paper.curve = arm.curve
    return config
