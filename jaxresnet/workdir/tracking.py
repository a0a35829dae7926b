"""Optional experiment trackers, which receive every line of ``metrics.jsonl``."""

import importlib.util
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
            UserError: wandb cannot begin.
        """
        import wandb

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
        """Send a line.

        Raises:
            UserError: wandb fails.
        """
        try:
            self._run.log(line, step=line["step"])
        except Exception as error:  # as above
            raise UserError(f"tracker='wandb' failed ({one_line(error)}); see WANDB_MODE=offline") from error

    def close(self) -> None:
        """End the session. wandb waits until it has sent everything."""
        self._run.finish()


def check_tracker(config: ConfigDict) -> None:
    """Check that the tracker that ``config.tracker`` names is installed.

    Raises:
        UserError: it is not.
    """
    name = config.get("tracker")
    if name and importlib.util.find_spec(name) is None:
        raise UserError(f"tracker={name!r} needs a package: pip install 'jaxresnet[{name}]'")


def create_tracker(config: ConfigDict, workdir: pathlib.Path) -> WandbTracker | None:
    """Return the tracker that ``config.tracker`` names, or None if it names none.

    Raises:
        UserError: the tracker cannot begin.
    """
    return WandbTracker(config, workdir) if config.get("tracker") == "wandb" else None


def _run_id(workdir: pathlib.Path) -> str:
    path = workdir / TRACKER_ID_FILE
    if not path.exists():
        write_whole(path, f"{secrets.token_hex(4)}\n")
    return path.read_text(encoding="utf-8").strip()
