"""What a classifier says of images, and how it is shown and written."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence

import numpy as np

from jaxresnet.sources import UNLABELLED

TOP = 3
NAME_WIDTH = 40  # characters of the table


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a classifier says of some images.

    Attributes:
        names: of the images, for people.
        ids: of the images, for a submission.
        labels: (size,) int32, the true ones; ``UNLABELLED`` where they are not known.
        top: (size, ``TOP``) int, the most probable classes, the first one first; fewer where there are fewer classes.
        probabilities: of these, in [0, 1].
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
        """(size,) bool: whose true label is known."""
        return self.labels != UNLABELLED

    @property
    def wrong(self) -> np.ndarray:
        """(size,) bool: whose true label is known and another."""
        return self.labelled & (self.top[:, 0] != self.labels)


def join(parts: Sequence[Predictions]) -> Predictions:
    """All of them, in order."""
    return Predictions(
        [name for part in parts for name in part.names],
        [each for part in parts for each in part.ids],
        *(np.concatenate([getattr(part, field) for part in parts]) for field in ("labels", "top", "probabilities")),
    )


def select(predictions: Predictions, indices: np.ndarray) -> Predictions:
    """Those at ``indices``, in that order."""
    return Predictions(
        [predictions.names[index] for index in indices],
        [predictions.ids[index] for index in indices],
        *(getattr(predictions, field)[indices] for field in ("labels", "top", "probabilities")),
    )


def format_table(predictions: Predictions, class_names: Sequence[str], rows: int) -> str:
    """The first ``rows`` predictions, and a line on the rest."""
    shown = [_shortened(name) for name in predictions.names[:rows]]
    width, class_width = max(map(len, [*shown, "image"])), max(map(len, [*class_names, "class"]))
    lines = [f"{'image':{width}}  {'class':{class_width}}  probability  top {predictions.top.shape[1]}"]
    for index, name in enumerate(shown):
        classes = [class_names[label] for label in predictions.top[index]]
        chances = [f"{100 * chance:.1f}%" for chance in predictions.probabilities[index]]
        top = ", ".join(f"{each} {chance}" for each, chance in zip(classes, chances, strict=True))
        truth = f"  (is {class_names[predictions.labels[index]]})" if predictions.wrong[index] else ""
        lines.append(f"{name:{width}}  {classes[0]:{class_width}}  {chances[0]:>11}  {top}{truth}")
    if len(predictions) > rows:
        lines.append(f"... and {len(predictions) - rows:,} more")
    return "\n".join(lines)


def with_unique_ids(predictions: Predictions) -> Predictions:
    """The same, with the names as ids where ids are not unique, as those of files from several folders."""
    if len(set(predictions.ids)) == len(predictions):
        return predictions
    return dataclasses.replace(predictions, ids=predictions.names)


def to_submission(predictions: Predictions) -> str:
    """CSV with ``ID,Labels``, as the course's competition wanted it: a class's number for each image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "Labels"])
    writer.writerows(zip(predictions.ids, predictions.top[:, 0].tolist(), strict=True))
    return text.getvalue()


def to_json_lines(predictions: Predictions, class_names: Sequence[str]) -> str:
    """A JSON object an image: ``image``, ``id``, ``label`` and ``class``, ``probability``, ``top``, and ``true_class``
    where it is known."""
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
