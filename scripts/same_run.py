"""Bit-for-bit comparison of finished runs."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxresnet.core.state import TrainState, create_train_state
from jaxresnet.workdir.checkpoint import Checkpointer, Progress
from jaxresnet.workdir.folder import CONFUSION_FILE, METRICS_FILE, SUMMARY_FILE

# These fields differ between any two runs.
TIMINGS = ("seconds", "images_per_second", "train_seconds", "eval_seconds", "wall_seconds")


# These fields do not describe the run: the source tree's commit may move while it trains.
_ASIDE = ("git_commit", "process_count")


class Outcome(NamedTuple):
    """Everything that a finished run leaves, without timings.

    TensorBoard's files are left out, because each session writes its own.

    Attributes:
        metrics: lines of ``metrics.jsonl``.
        summary: ``summary.json``, without the commit and the number of processes.
        confusion: text of ``confusion.csv``.
        progress: progress in the checkpoint of the last step.
        arrays: parameters, statistics and momenta of the last and the best step, by name.
    """

    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    confusion: str
    progress: dict[str, Any]
    arrays: dict[str, np.ndarray]


def read_outcome(config: ConfigDict, workdir: pathlib.Path) -> Outcome:
    """Read the outcome of the finished run in ``workdir``. ``config`` is the run's config."""
    best, _ = checkpointed(config, workdir, "best")
    last, progress = checkpointed(config, workdir, "last")
    arrays = {f"best{path}": leaf for path, leaf in best.items()} | {f"last{path}": leaf for path, leaf in last.items()}
    metrics = [json.loads(line) for line in (workdir / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    summary = json.loads((workdir / SUMMARY_FILE).read_text(encoding="utf-8"))
    summary = {key: value for key, value in summary.items() if key not in _ASIDE}
    confusion = (workdir / CONFUSION_FILE).read_text(encoding="utf-8")
    return Outcome(without_timings(metrics), without_timings(summary), confusion, progress, arrays)


def checkpointed(
    config: ConfigDict, workdir: pathlib.Path, name: str = "last"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the checkpoint ``name``: arrays by their paths in the training state, and progress without timings."""
    state = create_train_state(config, (32, 32, 3))
    with Checkpointer(workdir, read_only=True) as checkpointer:
        state, progress = checkpointer.restore_named(state, name)
    return arrays_of(state), _fields(progress)


def arrays_of(state: TrainState) -> dict[str, np.ndarray]:
    """Copy every array that training changes, by its path in the state."""
    changing = {"step": state.step, **state.raw_variables, "averages": state.averages, "opt_state": state.opt_state}
    leaves = jax.tree_util.tree_leaves_with_path(changing)
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def without_timings(value: Any) -> Any:
    """Return the same lists and dicts without the timings."""
    if isinstance(value, dict):
        return {key: without_timings(entry) for key, entry in value.items() if key not in TIMINGS}
    return [without_timings(entry) for entry in value] if isinstance(value, list) else value


def differences(actual: Outcome, expected: Outcome) -> list[str]:
    """Return one line per difference. The list is empty if the runs agree bit for bit."""
    return [
        *_differing_lines(actual.metrics, expected.metrics),
        *_differing_entries("summary.json", actual.summary, expected.summary),
        *(["confusion.csv differs"] if actual.confusion != expected.confusion else []),
        *_differing_entries("progress", actual.progress, expected.progress),
        *_differing_entries("checkpoint", _bits(actual.arrays), _bits(expected.arrays)),
    ]


def _fields(progress: Progress) -> dict[str, Any]:
    return without_timings(progress.to_json())


def _differing_lines(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Iterator[str]:
    steps, expected_steps = ([line["step"] for line in lines] for lines in (actual, expected))
    if steps != expected_steps:
        twice = sorted({step for step in steps if steps.count(step) > 1})
        missing = sorted(set(expected_steps) - set(steps))
        yield f"metrics.jsonl has {len(steps)} lines, not {len(expected_steps)}; twice: {twice}; missing: {missing}"
        return
    for line, expected_line in zip(actual, expected, strict=True):
        if line != expected_line:
            yield f"metrics.jsonl has {line}, not {expected_line}"


def _differing_entries(name: str, actual: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    for key in sorted(actual.keys() | expected.keys()):
        if actual.get(key) != expected.get(key):
            yield f"{name}: {key} differs"


def _bits(arrays: dict[str, np.ndarray]) -> dict[str, tuple[Any, ...]]:
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}
