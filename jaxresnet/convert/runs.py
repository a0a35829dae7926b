"""Conversion of PyTorch checkpoints to run directories, and of a run's weights to PyTorch's names."""

import hashlib
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxresnet.config import check_config, load_experiment, save_config
from jaxresnet.convert.files import MAX_EPOCHS, read_torch_file
from jaxresnet.core.model import count_parameters
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import begin_with
from jaxresnet.inference import restore_run
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.torch_weights import (
    COUNTERS,
    StateDict,
    UnfitWeights,
    describe_misfit,
    from_state_dict,
    infer_architecture,
    to_state_dict,
)
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.folder import read_class_names, read_imported, write_class_names, write_imported
from jaxresnet.workdir.progress import Progress

GUESSES = 4  # configs listed in an error


def import_weights(file: pathlib.Path, config: ConfigDict, workdir: pathlib.Path, epochs: int | None = None) -> str:
    """Create a run directory from a PyTorch checkpoint, for evaluation, prediction and further training.

    Training resumes with a fresh optimizer, because these files hold no momentum.

    Args:
        file: checkpoint that ``read_torch_file`` accepts.
        config: config that the weights belong to.
        workdir: new or empty folder.
        epochs: number of epochs that count as trained. ``None`` means the number in the file, or else 0.

    Returns:
        A description of what was imported.

    Raises:
        UserError: the file, config or folder is invalid, or the weights do not fit the config.
        OSError: the folder cannot be written.
    """
    check_config(config)
    create_hyperparams_fn(config, steps_per_epoch=1)
    if os.path.lexists(workdir) and not (workdir.is_dir() and not any(workdir.iterdir())):
        raise UserError(f"--workdir={workdir} exists; give a new or an empty folder, as a run is never overwritten")
    checkpoint = read_torch_file(file)
    try:
        variables = from_state_dict(checkpoint.state_dict, config.model)
    except UnfitWeights:
        raise
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if epochs is None:
        epochs = checkpoint.epochs or 0
    if not 0 <= epochs < MAX_EPOCHS:
        raise UserError(f"--epoch={epochs}: expected a number from 0, below {MAX_EPOCHS:,}")

    if checkpoint.class_names is not None and len(checkpoint.class_names) != config.model.num_classes:
        raise UserError(f"{file} names {len(checkpoint.class_names)} classes, but its weights have another number")
    state = begin_with(config, jax.tree.map(jnp.asarray, {name: variables[name] for name in ("params", "batch_stats")}))
    origin = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "epochs": checkpoint.epochs,
        "accuracy": checkpoint.accuracy,
        COUNTERS: {key: int(count) for key, count in to_state_dict(variables).items() if key.endswith(COUNTERS)},
    }
    workdir.parent.mkdir(parents=True, exist_ok=True)
    # Written to a temporary folder beside it and then renamed, so that a failure leaves no partial run.
    with tempfile.TemporaryDirectory(prefix=f".{workdir.name}.", dir=workdir.parent) as folder:
        new = pathlib.Path(folder) / workdir.name
        new.mkdir()
        try:
            with Checkpointer(new) as checkpointer:
                checkpointer.save(state, Progress(data_fingerprint=None, epoch=epochs))
        except UserError as error:  # its advice is that for a run
            reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise UserError(f"{workdir} could not be written ({one_line(reason)})") from error
        write_imported(origin, new)
        if checkpoint.class_names is not None:
            write_class_names(checkpoint.class_names, new)
        save_config(config, new)
        new.rename(workdir)
    claims = "" if checkpoint.accuracy is None else f" The file claims {checkpoint.accuracy:.2f}% accuracy."
    return (
        f"{workdir}: {count_parameters(state.params):,} parameters from {file}, counted as trained for {epochs} of "
        f"{config.num_epochs} epochs.{claims}\nThe file does not say how images were normalised or features pooled. To "
        f"check the config, run: python -m jaxresnet.evaluate --workdir={workdir}"
    )


def export_weights(workdir: pathlib.Path, checkpoint: str) -> tuple[StateDict, tuple[str, ...]]:
    """Return the weights of a run under PyTorch's names, and its class names.

    ``num_batches_tracked`` counts the weights' training steps.

    Raises:
        UserError: the run or checkpoint does not exist or is damaged.
    """
    run = restore_run(workdir, checkpoint)
    state_dict = to_state_dict(run.state.variables)
    imported = read_imported(workdir)
    before = imported[COUNTERS] if imported else {}
    taken = int(run.state.step) - run.progress.first_step
    for key in state_dict:
        if key.endswith(COUNTERS):
            state_dict[key] += before.get(key, 0) + taken
    return state_dict, read_class_names(workdir, run.config)


def guess_configs(state_dict: StateDict, configs: pathlib.Path) -> list[str]:
    """List the config files in a folder, arms included, whose models have the keys and shapes of ``state_dict``."""
    fitting = []
    for path in sorted(configs.glob("*.py")):
        try:
            experiment = load_experiment(path)
        except UserError:  # such as arms.py, which is not a config
            continue
        for arm in experiment.arms:
            if describe_misfit(state_dict, experiment.get_config(arm).model) is None:
                fitting.append(f"{path.stem}:{arm}" if arm else path.stem)
    # Whole files come first, because many arms share a model.
    return sorted(fitting, key=lambda name: ":" in name)


def explain_misfit(error: UnfitWeights, file: pathlib.Path, config: ConfigDict, configs: pathlib.Path) -> UserError:
    """Explain a misfit, and suggest a config that the file may belong to.

    Args:
        error: misfit to explain.
        file: checkpoint that does not fit.
        config: config that it does not fit.
        configs: folder of config files to compare with the checkpoint. They are executed.
    """
    state_dict = read_torch_file(file).state_dict
    found = infer_architecture(state_dict)
    if fitting := guess_configs(state_dict, configs):
        more = f" and {len(fitting) - GUESSES} more" if len(fitting) > GUESSES else ""
        guess = f"it fits {', '.join(fitting[:GUESSES])}{more}"
    elif not found:
        guess = "it is not a ResNet of basic blocks with these names"
    else:
        ours = dict(config.model) | {"stem_channels": config.model.stem_channels or config.model.channels[0]}
        flags = [
            f"--config.model.{name}={str(value).replace(' ', '')}"
            for name, value in found.items()
            if (tuple(ours[name]) if isinstance(value, tuple) else ours[name]) != value
        ]
        guess = f"it looks like {' '.join(flags)}" if flags else "otherwise it looks like this config's"
    return UserError(f"{file} does not fit the config; {guess}\n{error}")
