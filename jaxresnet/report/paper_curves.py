"""Curves from the authors' own logs."""

import csv
import pathlib

from jaxresnet.system.errors import UserError

Series = dict[str, list[float]]


def read_paper_curve(name: str) -> Series:
    """Read the authors' log of a run: epochs from 1, and train and test ("eval") loss and accuracy (%).

    Raises:
        UserError: unknown curve.
    """
    with pathlib.Path(__file__).with_name("paper_curves.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == name]
    if not rows:
        raise UserError(f"paper.curve={name!r}: no such run in paper_curves.csv")
    epochs = [float(row["epoch"]) + 1 for row in rows]
    columns = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    curves = {name.replace("test", "eval"): [float(row[name]) for row in rows] for name in columns}
    return {"epoch": epochs, "eval_epoch": epochs, **curves}
