"""Checks of a checkpoint: its content, its fit to a model, and the reason why it cannot be read."""

import contextlib
import errno
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from jaxresnet.system.errors import UserError


def checksum(arrays: Any, fields: dict[str, Any]) -> str:
    """Return the CRC-32 of all values of a checkpoint, as 8 hexadecimal digits."""
    crc = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return f"{crc:08x}"


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Return True if no value is NaN or infinite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def check_fits(params: Any, folder: pathlib.Path) -> None:
    """Check names and shapes of parameters against those of the checkpoint in ``folder``.

    orbax's own message would be less clear. A damaged checkpoint passes.

    Raises:
        UserError: they differ.
    """
    try:
        with quiet(), ocp.StandardCheckpointer() as checkpointer:
            there = checkpointer.metadata(folder / "state").item_metadata.tree["params"]
    except Exception:  # the checkpoint is damaged: restoring it reports that
        return
    theirs, ours = _shapes(there), _shapes(params)
    differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"the weights in {folder} are not those of the run's config: {len(differing)} differ, {name} is "
            f"{theirs.get(name)} there and {ours.get(name)} by the config; restore the config.json of that run"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def is_unreadable(error: Exception) -> bool:
    """Return True if the error is about access (permissions, open-file limit) rather than damage."""
    while error.__cause__ and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (
        isinstance(error, PermissionError)
        or (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE))
        or "PERMISSION_DENIED" in str(error)  # as tensorstore words it
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence orbax's warnings about folders that are as intended."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
