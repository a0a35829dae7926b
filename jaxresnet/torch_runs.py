"""Run directories from PyTorch checkpoints, and weights of runs under PyTorch's names."""

import hashlib
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxresnet.checkpoint import Checkpointer
from jaxresnet.config import check_config, save_config
from jaxresnet.datasets import class_names
from jaxresnet.errors import UserError
from jaxresnet.experiments import load_experiment
from jaxresnet.inference import restore_run
from jaxresnet.models import count_parameters
from jaxresnet.progress import Progress
from jaxresnet.run_files import read_imported, write_imported
from jaxresnet.schedules import create_hyperparams_fn
from jaxresnet.torch_files import read_torch_file
from jaxresnet.torch_weights import (
    COUNTERS,
    StateDict,
    UnfitWeights,
    describe_misfit,
    from_state_dict,
    infer_architecture,
    to_state_dict,
)
from jaxresnet.train_state import begin_with

GUESSES = 4  # that an error names


def import_weights(file: pathlib.Path, config: ConfigDict, workdir: pathlib.Path, epochs: int | None = None) -> str:
    """Makes a run directory of a PyTorch checkpoint, which evaluation, prediction and further training accept.

    Training goes on with an optimizer that has seen nothing: these files hold no momentum.

    Args:
        file: see ``read_torch_file``.
        config: that the weights belong to.
        workdir: a folder that is new or empty.
        epochs: how many count as trained; ``None`` for what the file says, or else 0.

    Returns:
        What was imported, in words.

    Raises:
        UserError: a file, config or folder that cannot work, or weights that do not fit the config.
        OSError: the folder cannot be written.
    """
    check_config(config)
    class_names(config.dataset.name, config.model.num_classes)
    create_hyperparams_fn(config, steps_per_epoch=1)
    if os.path.lexists(workdir) and not (workdir.is_dir() and not any(workdir.iterdir())):
        raise UserError(f"--workdir={workdir} exists; give a new or an empty folder: a run is never overwritten")
    checkpoint = read_torch_file(file)
    try:
        variables = from_state_dict(checkpoint.state_dict, config.model)
    except UnfitWeights:
        raise
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if epochs is None:
        epochs = checkpoint.epochs or 0
    if epochs < 0:
        raise UserError(f"--epoch={epochs}: expected at least 0")

    state = begin_with(config, jax.tree.map(jnp.asarray, {name: variables[name] for name in ("params", "batch_stats")}))
    origin = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "epochs": checkpoint.epochs,
        "accuracy": checkpoint.accuracy,
        COUNTERS: {key: int(count) for key, count in to_state_dict(variables).items() if key.endswith(COUNTERS)},
    }
    workdir.parent.mkdir(parents=True, exist_ok=True)
    # Made beside and then renamed, so that there is a whole run or none.
    with tempfile.TemporaryDirectory(prefix=f".{workdir.name}.", dir=workdir.parent) as folder:
        new = pathlib.Path(folder) / workdir.name
        new.mkdir()
        with Checkpointer(new) as checkpointer:
            checkpointer.save(state, Progress(data_fingerprint=None, epoch=epochs))
        write_imported(origin, new)
        save_config(config, new)
        new.rename(workdir)
    claims = "" if checkpoint.accuracy is None else f" The file says {checkpoint.accuracy:.2f}%."
    return (
        f"{workdir}: {count_parameters(state.params):,} parameters of {file}, counted as trained for {epochs} of "
        f"{config.num_epochs} epochs.{claims}\nWeights do not tell how images were normalised or a map was pooled; "
        f"check: python -m jaxresnet.evaluate --workdir={workdir}"
    )


def export_weights(workdir: pathlib.Path, checkpoint: str) -> StateDict:
    """The weights of a run under PyTorch's names; ``num_batches_tracked`` are the training steps behind them.

    Raises:
        UserError: no such run or checkpoint, or a damaged one.
    """
    run = restore_run(workdir, checkpoint)
    state_dict = to_state_dict(run.state.variables)
    imported = read_imported(workdir)
    before = imported[COUNTERS] if imported else {}
    taken = int(run.state.step) - run.progress.first_step
    for key in state_dict:
        if key.endswith(COUNTERS):
            state_dict[key] += before.get(key, 0) + taken
    return state_dict


def guess_configs(state_dict: StateDict, configs: pathlib.Path) -> list[str]:
    """The config files in a folder, arms included, whose models have the keys and shapes of ``state_dict``."""
    fitting = []
    for path in sorted(configs.glob("*.py")):
        try:
            experiment = load_experiment(path)
        except UserError:  # such as arms.py, which is no config
            continue
        for arm in experiment.arms:
            if describe_misfit(state_dict, experiment.get_config(arm).model) is None:
                fitting.append(f"{path}:{arm}" if arm else str(path))
    # Whole files before arms of tables, of which many share a model.
    return sorted(fitting, key=lambda name: ".py:" in name)


def explain_misfit(error: UnfitWeights, file: pathlib.Path, config: ConfigDict, configs: pathlib.Path) -> UserError:
    """The misfit, and which config the file may belong to.

    Args:
        error: the misfit.
        file: that does not fit.
        config: that it does not fit.
        configs: a folder of config files to look for one that fits. They are run.
    """
    state_dict = read_torch_file(file).state_dict
    found = infer_architecture(state_dict)
    if fitting := guess_configs(state_dict, configs):
        more = f" and {len(fitting) - GUESSES} more" if len(fitting) > GUESSES else ""
        guess = f"it fits {', '.join(fitting[:GUESSES])}{more}"
    elif not found:
        guess = "it is no ResNet of basic blocks with these names"
    else:
        ours = dict(config.model) | {"stem_channels": config.model.stem_channels or config.model.channels[0]}
        flags = [
            f"--config.model.{name}={str(value).replace(' ', '')}"
            for name, value in found.items()
            if (tuple(ours[name]) if isinstance(value, tuple) else ours[name]) != value
        ]
        guess = f"it looks like {' '.join(flags)}" if flags else "but for that it looks like this config's"
    return UserError(f"{file} does not fit the config; {guess}\n{error}")
