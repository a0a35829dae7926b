"""Curves from the authors' own logs."""

import csv
import functools
import pathlib

from jaxresnet.system.errors import UserError

PAPER_CURVES = pathlib.Path(__file__).with_name("paper_curves.csv")

Series = dict[str, list[float]]


def read_paper_curve(name: str) -> Series:
    """Read the authors' log of a run: epochs from 1, and train and test ("eval") loss and accuracy (%).

    Raises:
        UserError: unknown curve.
    """
    rows = [row for row in _read_all() if row["run"] == name]
    if not rows:
        raise UserError(f"paper.curve={name!r}: no such run in {PAPER_CURVES.name}")
    return {
        "epoch": [int(row["epoch"]) + 1 for row in rows],
        "eval_epoch": [int(row["epoch"]) + 1 for row in rows],
        **{f"train_{key}": [float(row[f"train_{key}"]) for row in rows] for key in ("loss", "accuracy")},
        **{f"eval_{key}": [float(row[f"test_{key}"]) for row in rows] for key in ("loss", "accuracy")},
    }


@functools.cache
def _read_all() -> list[dict[str, str]]:
    """Read the file once, because a report draws many curves."""
    with PAPER_CURVES.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
