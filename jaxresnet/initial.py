"""Weights that a run begins with: those of another run, of a release, or of a file."""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import safetensors.numpy
from ml_collections import ConfigDict

from jaxresnet import released
from jaxresnet.convert import read_torch_file
from jaxresnet.core.state import TrainState, begin_with
from jaxresnet.inference import restore_run
from jaxresnet.system.errors import UserError
from jaxresnet.weights import StateDict, from_state_dict, to_state_dict, unwrap
from jaxresnet.workdir.folder import CHECKPOINTS_FOLDER, WEIGHTS_FILE, read_class_names


def begin_from(state: TrainState, config: ConfigDict, class_names: Sequence[str]) -> tuple[TrainState, dict[str, Any]]:
    """Replace the weights of a first state by those that ``config.init_from`` names.

    The linear layer of ``state`` stays if the classes have other names. If the same names have another order, that of
    the weights is changed. A file without class names keeps its linear layer if that fits.

    Returns:
        The state before the first step, and what ``imported.json`` records: ``file``, the ``sha256`` of the file or of
        a run's weights as safetensors, and the keys of ``initialised`` weights.

    Raises:
        UserError: there are no such weights, they are damaged, or they do not fit the config.
    """
    own, hint = to_state_dict(jax.device_get(state.variables)), ""
    head = {key: array for key, array in own.items() if key.startswith("linear.")}
    try:
        weights, names, sha256 = _read(config.init_from)
        fits = all(key in weights and weights[key].shape == array.shape for key, array in head.items())
        is_new = not fits if names is None else sorted(names) != sorted(class_names)
        if is_new:
            weights |= head
        elif not fits:
            hint = "\nthe classes are the same: give the model.pooling that it was trained with"
        elif names is not None:
            weights |= {key: weights[key][[names.index(name) for name in class_names]] for key in head}
        variables = from_state_dict(weights, config.model)
    except UserError as error:
        raise UserError(f"init_from={config.init_from}: {error}{hint}") from error
    print(f"beginning with {config.init_from}" + (", and a new linear layer for these classes" if is_new else ""))
    imported = {"file": config.init_from, "sha256": sha256, "initialised": sorted(head) if is_new else []}
    return begin_with(config, jax.tree.map(jnp.asarray, variables)), imported


def _read(init_from: str) -> tuple[StateDict, tuple[str, ...] | None, str]:
    """Return weights, class names unless they are unknown, and SHA-256."""
    place = released.resolve(init_from)
    if not place.is_dir():
        checkpoint = read_torch_file(place)
        return unwrap(checkpoint.state_dict), checkpoint.class_names, hashlib.sha256(place.read_bytes()).hexdigest()
    run = restore_run(place, "last")
    weights, is_run = to_state_dict(jax.device_get(run.state.variables)), (place / CHECKPOINTS_FOLDER).exists()
    content = safetensors.numpy.save(weights) if is_run else (place / WEIGHTS_FILE).read_bytes()
    return weights, read_class_names(place, run.config), hashlib.sha256(content).hexdigest()
