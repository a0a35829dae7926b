"""Make a release of a finished run: a folder with its weights in half precision and a card of its measurements."""

import hashlib
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxresnet.config import CONFIG_FILE, save_config
from jaxresnet.convert.files import to_torch_file
from jaxresnet.core.model import count_parameters
from jaxresnet.evaluate import Evaluation, evaluate_run
from jaxresnet.inference import RestoredRun, restore_run
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import write_whole
from jaxresnet.torch_weights import COUNTERS, to_state_dict
from jaxresnet.workdir.folder import (
    CARD_FILE,
    CARD_IN_WORDS,
    WEIGHTS_FILE,
    read_class_names,
    read_summary,
    write_class_names,
)


def in_half_precision(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights and statistics as float16, without PyTorch's counters, because no result depends on them.

    Raises:
        UserError: value too large for float16.
    """
    with np.errstate(over="ignore"):
        halves = {key: array.astype(np.float16) for key, array in state_dict.items() if not key.endswith(COUNTERS)}
    if large := [key for key, array in halves.items() if not np.isfinite(array).all()]:
        raise UserError(f"{large[0]} holds values above 65,504, the largest number in half precision")
    return halves


def write_release(workdir: str, out: str, note: str, data_dir: str | None) -> dict[str, Any]:
    """Make a release of a finished run and measure its accuracy from the released files.

    Args:
        workdir: run directory. Its last checkpoint is released.
        out: new folder.
        note: text for the card about how the run was made.
        data_dir: folder of the data, or ``None`` for the one in the run's config.

    Returns:
        The card.

    Raises:
        UserError: unfinished run, missing last checkpoint, existing ``out``, or unreadable data.
    """
    run_folder, folder = user_path(workdir), user_path(out)
    summary = read_summary(run_folder)
    if summary is None:
        raise UserError(f"{run_folder} holds no finished run; train it to its end first")
    if folder.exists():
        raise UserError(f"--out={out} exists; give a new folder: a release is never overwritten")
    run = restore_run(run_folder, "last")
    if run.step != summary["last"]["step"]:
        raise UserError(
            f"{run_folder}: its last checkpoint is of step {run.step:,}, but the run ended at step "
            f"{summary['last']['step']:,}; restore checkpoints/ from a copy"
        )
    weights = to_state_dict(run.state.variables)
    released = in_half_precision(weights)
    card = _describe_run(run, summary) | {"note": note}
    config = run.config.copy_and_resolve_references()
    config.dtype = "float32"  # Every device computes in it, and PyTorch then gives the same logits.
    config.dataset.data_dir = None  # The path is valid only on this machine.
    data_dir = data_dir or run.config.dataset.data_dir
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The folder is renamed into place when it is complete, so a failure leaves no partial release.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new = pathlib.Path(temporary) / folder.name
        new.mkdir()
        save_config(config, new)
        names = read_class_names(run_folder, config)
        write_class_names(names, new)
        _place_weights(new, weights, names, card)
        unrounded = _accuracy(evaluate_run(str(new), "last", data_dir))
        card = _place_weights(new, released, names, card)
        card["accuracy"] = _measure(new, data_dir, config.augment.flip) | {
            "before_rounding_to_half_precision": unrounded
        }
        write_whole(new / CARD_FILE, json.dumps(card, indent=2) + "\n")
        write_whole(new / CARD_IN_WORDS, format_card(card))
        new.rename(folder)
    return card


def _describe_run(run: RestoredRun, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a card that follow from the run alone."""
    return {
        "config": run.config.name,
        "seed": run.config.seed,
        "epochs": run.config.num_epochs,
        "step": run.step,
        "parameters": count_parameters(run.state.params),
        "git_commit": summary.get("git_commit"),
        "trained_in": run.config.dtype,
        "selection": "none: the weights after the last epoch",
        "training_hours": summary["wall_seconds"] / 3600,
        "device": summary["device"],
        "versions": summary["versions"],
    }


def _place_weights(
    folder: pathlib.Path, state_dict: dict[str, np.ndarray], class_names: Sequence[str], card: Mapping[str, Any]
) -> dict[str, Any]:
    """Write weights, and a card with their hash, because reading a release checks it. Return that card."""
    content = to_torch_file(state_dict, pathlib.Path(WEIGHTS_FILE), class_names)
    (folder / WEIGHTS_FILE).write_bytes(content)
    with_hash = {"sha256": hashlib.sha256(content).hexdigest(), **card}
    write_whole(folder / CARD_FILE, json.dumps(with_hash))
    return with_hash


def _measure(folder: pathlib.Path, data_dir: str | None, mirror: bool) -> dict[str, Any]:
    """Score the release in ``folder`` on the test set, and also with the mirrored view if ``mirror``."""
    released = evaluate_run(str(folder), "last", data_dir)
    mirrored = evaluate_run(str(folder), "last", data_dir, mirror=True) if mirror else None
    confusion = released.scores.confusion
    recalls = (100 * np.diag(confusion) / confusion.sum(1)).tolist()
    return {
        "single_view": _accuracy(released),
        "with_mirrored_view": _accuracy(mirrored) if mirrored else None,
        "test_images": int(confusion.sum()),
        "per_class": dict(zip(released.class_names, recalls, strict=True)),
    }


def _accuracy(evaluation: Evaluation) -> float:
    return evaluation.scores.sums.means("test")["test_accuracy"]


def format_card(card: Mapping[str, Any]) -> str:
    """Format a card as Markdown."""
    accuracy = card["accuracy"]
    single, mirrored = accuracy["single_view"], accuracy["with_mirrored_view"]
    classes = "\n".join(f"| {name} | {value:.1f} |" for name, value in accuracy["per_class"].items())
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return f"""# A trained model

{card["parameters"]:,} parameters, **{single:.2f}%** test accuracy: single view, {accuracy["test_images"]:,} images.
{"" if mirrored is None else f"With the mean of the logits of each image and its mirror image: {mirrored:.2f}%."}

{card["note"]}

| | |
| --- | --- |
| config | `{card["config"]}` ({CONFIG_FILE}), {card["epochs"]} epochs, {card["step"]:,} steps, seed {card["seed"]} |
| time | {card["training_hours"]:.1f} hours of training and evaluation |
| on | {card["device"]}; {versions} |
| commit | {card["git_commit"] or "not recorded"} |
| computation | {card["trained_in"]} in training; float32 in use and for all accuracies here |
| selection | {card["selection"]} |
| weights | `{WEIGHTS_FILE}`: float16, PyTorch's names and layouts; SHA-256 `{card["sha256"]}` |
| rounding | {accuracy["before_rounding_to_half_precision"]:.2f}% before rounding to float16, single view |

| class | accuracy, % |
| --- | --- |
{classes}

All accuracies but the one before rounding were measured from the file shipped here. To check them, run
`python -m jaxresnet.evaluate --workdir=` with this folder{"" if mirrored is None else ", and again with `--mirror`"}.
"""
