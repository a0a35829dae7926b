"""``summary.json``: what a finished run came to."""

import json
import pathlib
from typing import Any

from jaxresnet.errors import UserError
from jaxresnet.files import write_whole
from jaxresnet.metrics import format_seconds

SUMMARY_FILE = "summary.json"


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of the run in ``workdir``, or None where it has not finished.

    Raises:
        UserError: the file is damaged.
    """
    path = workdir / SUMMARY_FILE
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away to have it written again") from error


def write_summary(summary: dict[str, Any], workdir: pathlib.Path) -> None:
    """Writes ``summary.json``, whole or not at all."""
    write_whole(workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")


def format_summary(summary: dict[str, Any]) -> str:
    """The lines that a run ends with."""
    split, best, last = summary["evaluated_on"], summary["best"], summary["last"]
    lines = [
        f"last epoch ({last['epoch']}): {last['accuracy']:.2f}% {split} accuracy",
        f"best epoch ({best['epoch']}): {best['accuracy']:.2f}% {split} accuracy, "
        f"chosen on the {best['selected_on']} set",
    ]
    if "test" in summary:
        lines.append(f"test accuracy of epoch {best['epoch']}, scored once: {summary['test']['test_accuracy']:.2f}%")
    if summary["paper_accuracy"] is not None:
        lines.append(f"the paper: {summary['paper_accuracy']:.2f}%")
    lines.append(f"{format_seconds(summary['wall_seconds'])}, {summary['images_per_second']:,.0f} images/s in training")
    return "\n".join(lines)
