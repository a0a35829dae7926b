"""Brings PyTorch weights into a run directory, or a run's weights out: ``python -m jaxresnet.convert``.

python -m jaxresnet.convert --from_torch ckpt.pth --config=configs/final.py --workdir=runs/imported
python -m jaxresnet.convert --to_torch final.pth --workdir=runs/final
"""

import hashlib
import pathlib

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.checkpoint import Checkpointer, Progress
from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.config import check_config, save_config
from jaxresnet.errors import UserError, user_path
from jaxresnet.experiments import load_experiment
from jaxresnet.files import output_path
from jaxresnet.inference import restore_run
from jaxresnet.models import count_parameters
from jaxresnet.run_files import read_imported, write_imported
from jaxresnet.torch_files import read_torch_file, write_torch_file
from jaxresnet.torch_weights import (
    COUNTERS,
    StateDict,
    UnfitWeights,
    describe_architecture,
    describe_misfit,
    from_state_dict,
    to_state_dict,
)
from jaxresnet.train_state import create_train_state

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file that the weights belong to; with --from_torch.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder of the run: a new one with --from_torch, the one to read with --to_torch."
)
FROM_TORCH = flags.DEFINE_string("from_torch", None, "The PyTorch checkpoint or .safetensors file to import.")
TO_TORCH = flags.DEFINE_string("to_torch", None, "The file to write: .safetensors, or else one for torch.load.")
EPOCH = flags.DEFINE_integer(
    "epoch", None, "How many epochs count as trained when training goes on; not given: what the file says, or else 0."
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", '"last", "best", or the number of a step; with --to_torch.')
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --to_torch names.")

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
    """
    check_config(config)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"--workdir={workdir} exists; give a new or an empty folder: a run is never overwritten")
    checkpoint = read_torch_file(file)
    variables = from_state_dict(checkpoint.state_dict, config.model)
    if epochs is None:
        epochs = checkpoint.epochs or 0
    if epochs < 0:
        raise UserError(f"--epoch={epochs}: expected at least 0")

    state = create_train_state(config, IMAGE_SHAPE)
    arrays = {name: jax.tree.map(jnp.asarray, variables[name]) for name in ("params", "batch_stats")}
    origin = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "epochs": checkpoint.epochs,
        "accuracy": checkpoint.accuracy,
        COUNTERS: {key: int(count) for key, count in to_state_dict(variables).items() if key.endswith(COUNTERS)},
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with Checkpointer(workdir) as checkpointer:
            checkpointer.save(state.replace(**arrays), Progress(data_fingerprint=None, epoch=epochs))
        write_imported(origin, workdir)
        save_config(config, workdir)  # last, for it is what makes the folder a run
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error}); give another") from error
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


def _explain(error: UnfitWeights, file: pathlib.Path, config_path: str) -> UserError:
    """The misfit, and which config the file may belong to."""
    state_dict = read_torch_file(file).state_dict
    fitting = guess_configs(state_dict, pathlib.Path(config_path.partition(":")[0]).parent)
    found = describe_architecture(state_dict)
    if fitting:
        more = f" and {len(fitting) - GUESSES} more" if len(fitting) > GUESSES else ""
        guess = f"it fits --config={', '.join(fitting[:GUESSES])}{more}"
    elif found:
        guess = f"no config beside this one fits; it looks like model.{found.replace(', ', ', model.')}"
    else:
        guess = "it looks like no ResNet of basic blocks"
    return UserError(f"{file} does not fit --config={config_path}; {guess}\n{error}")


def main(argv: list[str]) -> None:
    with cli.command():
        cli.refuse_arguments(argv)
        if (FROM_TORCH.value is None) == (TO_TORCH.value is None):
            raise UserError("give one of --from_torch=FILE and --to_torch=FILE")
        workdir = user_path(WORKDIR.value)
        if TO_TORCH.value is not None:
            out = output_path("--to_torch", TO_TORCH.value, FORCE.value)
            state_dict = export_weights(workdir, CHECKPOINT.value)
            write_torch_file(state_dict, out)
            print(f"{out}: {len(state_dict)} arrays")
            return
        if CONFIG.value is None:
            raise UserError("--from_torch needs --config, the config that the weights belong to")
        file = user_path(FROM_TORCH.value)
        try:
            print(import_weights(file, CONFIG.value, workdir, EPOCH.value))
        except UnfitWeights as error:
            raise _explain(error, file, config_flags.get_config_filename(flags.FLAGS["config"])) from error


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    app.run(main, flags_parser=cli.parse_flags)
