"""Read releases: folders with a trained model and nothing else, small enough to ship.

A release holds ``config.json``, ``classes.json``, the weights in half precision under PyTorch's names
(``model.safetensors``), their measurements (``card.json``), and the same in words (``README.md``). ``jaxresnet.export``
writes it.
"""

import hashlib
import json
import pathlib
from typing import Any

import safetensors.numpy
from ml_collections import ConfigDict

from jaxresnet.config import CONFIG_FILE
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.torch_weights import UnfitWeights, from_state_dict
from jaxresnet.workdir.folder import CARD_FILE, WEIGHTS_FILE

_CARD_FIELDS = {"sha256": str, "step": int, "epochs": int}


def read_card(folder: pathlib.Path) -> dict[str, Any]:
    """Return the content of ``card.json``: at least ``sha256`` of the weights, ``step`` and ``epochs`` behind them.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        wrong = [name for name, kind in _CARD_FIELDS.items() if type(card[name]) is not kind]
        if wrong or not 0 <= card["step"] < 2**31 or not 0 <= card["epochs"] < 2**31:
            raise ValueError(f"invalid {', '.join(wrong) or 'step or epochs'}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); copy the folder again") from error
    return card


def read_release(folder: pathlib.Path, config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the weights of a release.

    Args:
        folder: release folder.
        config: its config.

    Returns:
        The ``params`` and ``batch_stats``, float32, and the card.

    Raises:
        UserError: a file is missing or damaged, or the weights do not match the card or the config.
    """
    card, path = read_card(folder), folder / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; copy the folder again")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card["sha256"]:
        raise UserError(
            f"{path} was changed or damaged: its SHA-256 is {found[:12]}..., {CARD_FILE} names "
            f"{card['sha256'][:12]}...; copy the folder again"
        )
    try:
        state_dict = safetensors.numpy.load(content)
    except Exception as error:  # a damaged file can raise many types
        raise UserError(
            f"{path}: is not a safetensors file, or a damaged one ({one_line(error)}); copy the folder again"
        ) from error
    try:
        variables = from_state_dict(state_dict, config.model)
    except UnfitWeights as error:
        raise UserError(
            f"{path} does not fit {CONFIG_FILE} beside it ({str(error).splitlines()[0][:200]}); copy the folder again"
        ) from error
    return {name: variables[name] for name in ("params", "batch_stats")}, card
