"""Predictions of images, and their formats on the terminal and in files."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence

import numpy as np

from jaxresnet.predict.inputs import UNLABELLED

TOP = 3
NAME_WIDTH = 40  # characters in the table


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of some images.

    Attributes:
        names: display names.
        ids: submission ids.
        labels: (size,) int32, true labels, ``UNLABELLED`` if unknown.
        top: (size, ``TOP``) int, most probable classes in descending order. There are fewer columns for fewer classes.
        probabilities: probabilities of ``top``, in [0, 1].
    """

    names: list[str]
    ids: list[str]
    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> np.ndarray:
        """Return (size,) bool, True if the true label is known."""
        return self.labels != UNLABELLED

    @property
    def wrong(self) -> np.ndarray:
        """Return (size,) bool, True if the true label is known and differs from the prediction."""
        return self.labelled & (self.top[:, 0] != self.labels)


def join(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate predictions in order."""
    return Predictions(
        [name for part in parts for name in part.names],
        [each for part in parts for each in part.ids],
        *(np.concatenate([getattr(part, field) for part in parts]) for field in ("labels", "top", "probabilities")),
    )


def select(predictions: Predictions, indices: np.ndarray) -> Predictions:
    """Return the predictions at ``indices``, in that order."""
    return Predictions(
        [predictions.names[index] for index in indices],
        [predictions.ids[index] for index in indices],
        *(getattr(predictions, field)[indices] for field in ("labels", "top", "probabilities")),
    )


def format_table(predictions: Predictions, class_names: Sequence[str], rows: int) -> str:
    """Format the first ``rows`` predictions as a table, and count the rest in a last line.

    A column for the true class is there if any is known.
    """
    rows_shown = [["image", "is", "predicted", "probability", "then"]]
    for index, name in enumerate(predictions.names[:rows]):
        classes = [class_names[label] for label in predictions.top[index]]
        chances = [f"{100 * chance:.1f}%" for chance in predictions.probabilities[index]]
        truth = class_names[predictions.labels[index]] if predictions.labelled[index] else ""
        then = ", ".join(f"{each} {chance}" for each, chance in zip(classes[1:], chances[1:], strict=True))
        rows_shown.append([_shortened(name), truth, classes[0], chances[0], then])
    if not predictions.labelled.any():
        rows_shown = [[row[0], *row[2:]] for row in rows_shown]
    widths = [max(map(len, column)) for column in zip(*rows_shown, strict=True)]
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows_shown
    ]
    if len(predictions) > rows:
        lines.append(f"... and {len(predictions) - rows:,} more")
    return "\n".join(lines)


def with_unique_ids(predictions: Predictions) -> Predictions:
    """Replace the ids by the names if the ids are not unique, as for files from several folders."""
    if len(set(predictions.ids)) == len(predictions):
        return predictions
    return dataclasses.replace(predictions, ids=predictions.names)


def to_submission(predictions: Predictions) -> str:
    """Return CSV with ``ID,Labels`` for the course's competition: a class number per image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "Labels"])
    writer.writerows(zip(predictions.ids, predictions.top[:, 0].tolist(), strict=True))
    return text.getvalue()


def to_json_lines(predictions: Predictions, class_names: Sequence[str]) -> str:
    """Return one JSON object per image.

    The fields are ``image``, ``id``, ``label``, ``class``, ``probability``, ``top`` and, if known, ``true_class``.
    """
    lines = []
    for index, name in enumerate(predictions.names):
        top = [
            {"class": class_names[label], "probability": float(chance)}
            for label, chance in zip(predictions.top[index], predictions.probabilities[index], strict=True)
        ]
        label = int(predictions.top[index, 0])
        line = {"image": name, "id": predictions.ids[index], "label": label, **top[0], "top": top}
        if predictions.labelled[index]:
            line["true_class"] = class_names[predictions.labels[index]]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}"
