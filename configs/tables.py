"""Arms and claims of a table of experiments.

This file is not a config. A table is a config file with ``TITLE``, ``ARMS``, and a ``get_config`` that takes the name
of an arm. ``CLAIMS`` are judged by the report, and ``NOTE`` is Markdown that it prints below the table. Both are
optional. A table may lie in any folder:

    from configs import quickstart
    from configs.tables import Arm, Claim, getter

    TITLE = "Learning rate on the digits"
    ARMS = {"0.1": Arm(), "0.02": Arm({"schedule.learning_rate": 0.02})}
    CLAIMS = (Claim("A rate of 0.1 is better than one of 0.02", (("0.1", "0.02"),)),)
    get_config = getter("rates", ARMS, quickstart.get_config)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from configs import baseline


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        changes: changed fields of the base config, as in ``{"schedule.name": "linear"}``; empty for the base itself.
        paper: test accuracy that the paper reports, in %; ``None`` for arms that it does not have.
        curve: name of the authors' log in ``jaxresnet/report/paper_curves.csv``; ``None`` if no log survives.
        words: what the arm is, in a few words for the report.
        shares_runs_with: name of the experiment of another table that has the same config, such as
            ``"pooling/adaptive"``; ``None`` if the arm has runs of its own.
        base: function that makes the base config; ``None`` for that of the table.
    """

    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    paper: float | None = None
    curve: str | None = None
    words: str = ""
    shares_runs_with: str | None = None
    base: Callable[[], ConfigDict] | None = None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim about arms of one table, which the report judges from runs.

    Attributes:
        text: the claim in a sentence, without a full stop.
        pairs: arms of which the first should score higher, or the same if ``equal``.
        quote: the paper's own words; ``None`` if the claim is not the paper's.
        equal: True if the claim is that the arms do not differ.
        not_testable: why runs with a smaller network cannot test the claim; empty if they can.
    """

    text: str
    pairs: tuple[tuple[str, str], ...]
    quote: str | None = None
    equal: bool = False
    not_testable: str = ""


# Every table of the paper has this row. Its accuracy and curve are those of the base.
BASELINE = Arm(words="the baseline")


def over(best: str, *others: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of an arm with each of the others."""
    return tuple((best, other) for other in others)


def twins(suffix: str, *arms: str, of: str = "") -> tuple[tuple[str, str], ...]:
    """Return pairs of an arm with ``suffix`` and the same arm with the suffix ``of``, for each of ``arms``."""
    return tuple((f"{arm}{suffix}", f"{arm}{of}") for arm in arms)


def choose(arms: dict[str, Any], name: str) -> Any:
    """Return the arm ``name``.

    Raises:
        ValueError: there is no such arm. The message lists all arms.
    """
    if name not in arms:
        raise ValueError(f"there is no arm {name!r}; expected one of {', '.join(arms)}")
    return arms[name]


def getter(
    table: str, arms: dict[str, Arm], base: Callable[[], ConfigDict] = baseline.get_config
) -> Callable[..., ConfigDict]:
    """Return the ``get_config`` of a table.

    Without an argument it returns the control, which is the first arm without changes, or else the first arm. Arms
    without changes keep the name of their base, and so share its runs; others are named ``table/arm``.

    Args:
        table: name of the table in the names of its runs.
        arms: the rows.
        base: function that makes the config which the arms change.
    """
    control = next((name for name, arm in arms.items() if not arm.changes and not arm.base), next(iter(arms)))

    def get_config(arm: str = control) -> ConfigDict:
        """Return the config of an arm.

        Raises:
            ValueError: there is no such arm. The message lists all arms.
        """
        row = choose(arms, arm)
        config = (row.base or base)()
        if row.changes:
            config.name = row.shares_runs_with or f"{table}/{arm}"
            config.update_from_flattened_dict(row.changes)
            config.paper.update({"accuracy": row.paper, "epoch": "last", "curve": row.curve})
        return config

    return get_config
