"""Optional experiment trackers, which receive every line of ``metrics.jsonl``."""

import json
import os
import pathlib
import secrets
from typing import Any

from ml_collections import ConfigDict

from jaxresnet.system.atomic_files import write_whole
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.workdir.names import TRACKER_ID_FILE

TRACKERS = ("wandb",)


class WandbTracker:
    """A run of Weights & Biases, which a resumed run goes on with.

    wandb reads its own settings from the environment: ``WANDB_API_KEY``, ``WANDB_PROJECT``, ``WANDB_MODE=offline``.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path):
        """Begin or go on. wandb keeps its files in ``workdir``/wandb.

        Raises:
            UserError: wandb is not installed, or cannot begin.
        """
        try:
            import wandb
        except ImportError as error:
            raise UserError("tracker='wandb' needs it: pip install 'jaxresnet[wandb]'") from error
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "jaxresnet"),
                name=f"{config.name}, seed {config.seed}",
                id=_run_id(workdir),
                resume="allow",
                dir=str(workdir),
                config=json.loads(json.dumps(config.to_dict())),
            )
        except Exception as error:  # wandb raises many types
            raise UserError(f"tracker='wandb' cannot begin ({one_line(error)}); see WANDB_MODE=offline") from error

    def write(self, line: dict[str, Any]) -> None:
        """Send a line."""
        self._run.log(line, step=line["step"])

    def close(self) -> None:
        """End the session. wandb waits until it has sent everything."""
        self._run.finish()


def create_tracker(config: ConfigDict, workdir: pathlib.Path) -> WandbTracker | None:
    """Return the tracker that ``config.tracker`` names, or None if it names none.

    Raises:
        UserError: the tracker is not installed or cannot begin.
    """
    return WandbTracker(config, workdir) if config.get("tracker") == "wandb" else None


def _run_id(workdir: pathlib.Path) -> str:
    path = workdir / TRACKER_ID_FILE
    if not path.exists():
        write_whole(path, f"{secrets.token_hex(4)}\n")
    return path.read_text(encoding="utf-8").strip()
