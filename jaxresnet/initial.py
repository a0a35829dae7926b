"""Begin a run with the weights of another run, of a release or of a file, or go on from another run."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from jaxresnet import released
from jaxresnet.config import changed_fields, load_config
from jaxresnet.convert import read_torch_file
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import TrainState, begin_with, create_transform
from jaxresnet.inference import restore_run
from jaxresnet.system.errors import UserError
from jaxresnet.system.files import write_whole
from jaxresnet.weights import StateDict, from_state_dict, to_state_dict, unwrap
from jaxresnet.workdir.checkpoint import Checkpointer, Progress
from jaxresnet.workdir.folder import CHECKPOINTS_FOLDER, METRICS_FILE, WEIGHTS_FILE, read_class_names


def begin_from(state: TrainState, config: ConfigDict, class_names: Sequence[str]) -> tuple[TrainState, dict[str, Any]]:
    """Replace the weights of a first state by those that ``config.init_from`` names.

    The linear layer of ``state`` stays if the classes have other names, or if a file without names has one that does
    not fit. If the same names have another order, the linear layer follows it.

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


def branch_off(
    state: TrainState, config: ConfigDict, steps_per_epoch: int, workdir: pathlib.Path
) -> tuple[tuple[TrainState, Progress], dict[str, Any]]:
    """Return the run that ``config.branch_from`` names, as it was where the decay of ``config.schedule`` begins.

    Its log until there is copied into ``workdir``.

    Returns:
        The state, placed like ``state``, and the progress. And what ``imported.json`` records: the run and the step.

    Raises:
        UserError: there is no such run or checkpoint, the runs differ before that step, or the schedule has no decay.
    """
    if not config.schedule.decay_epochs:
        raise UserError(f"branch_from={config.branch_from}: goes on where the decay begins; give schedule.decay_epochs")
    trunk, epoch = released.resolve(config.branch_from), int(config.num_epochs - config.schedule.decay_epochs)
    theirs, step = load_config(trunk), epoch * steps_per_epoch
    configs, steps = (config, theirs), np.arange(step)
    rates, momenta = zip(*(create_hyperparams_fn(each, steps_per_epoch)(steps) for each in configs), strict=True)
    sides = [[create_transform(each, number).side for number in range(epoch)] for each in configs]
    followed = ("num_epochs", "eval_every_epochs", "branch_from", "augment.small_images")  # sides are compared instead
    changes = changed_fields(config, theirs)
    different = [name for name in changes if name not in followed and not name.startswith("schedule.")]
    different += ["the learning rate"] if not np.allclose(rates[0], rates[1], rtol=1e-6) else []
    different += ["the momentum"] if not np.allclose(momenta[0], momenta[1], rtol=1e-6) else []
    different += ["augment.small_images"] if sides[0] != sides[1] else []
    if different:
        raise UserError(f"branch_from={trunk}: until epoch {epoch} it was trained differently ({', '.join(different)})")
    kept = sorted(int(path.name) for path in (trunk / CHECKPOINTS_FOLDER).glob("[0-9]*") if path.name.isdecimal())
    if step not in kept:
        raise UserError(f"branch_from={trunk}: epoch {epoch} ends at step {step}; checkpoints are there of {kept}")
    with Checkpointer(trunk, read_only=True) as checkpointer:
        restored = checkpointer.restore_named(state, step)
    write_whole(workdir / METRICS_FILE, (trunk / METRICS_FILE).read_bytes())
    print(f"going on from {trunk} after step {step:,}")
    return restored, {"file": config.branch_from, "step": step}


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
