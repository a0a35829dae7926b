"""Import PyTorch weights as a run, or export the weights of a run to PyTorch.

python -m jaxresnet.convert --from_torch ckpt.pth --config=configs/final.py --workdir=runs/imported
python -m jaxresnet.convert --to_torch final.pth --workdir=runs/final
"""

from absl import app, flags
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.config import CONFIGS
from jaxresnet.system import terminal
from jaxresnet.system.atomic_files import output_file
from jaxresnet.system.errors import UserError, user_path

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file that the weights belong to; only with --from_torch.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Run directory: a new one with --from_torch, an existing one with --to_torch.",
    required=True,
)
FROM_TORCH = flags.DEFINE_string("from_torch", None, "PyTorch checkpoint or .safetensors file to import.")
TO_TORCH = flags.DEFINE_string("to_torch", None, "File to write: .safetensors, or any other ending for torch.load.")
EPOCH = flags.DEFINE_integer(
    "epoch", None, "Epochs that count as trained when training resumes. Default: the number in the file, or else 0."
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", '"last", "best", or a step number; only with --to_torch.')
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --to_torch names.")

# Flags of one direction only.
IMPORT_FLAGS, EXPORT_FLAGS = ("config", "epoch"), ("checkpoint", "force")


def main(argv: list[str]) -> None:
    """Import or export weights, as the flags say."""
    with cli.command():
        cli.refuse_arguments(argv)
        if (FROM_TORCH.value is None) == (TO_TORCH.value is None):
            raise UserError("give one of --from_torch=FILE and --to_torch=FILE")
        imports = FROM_TORCH.value is not None
        for name in EXPORT_FLAGS if imports else IMPORT_FLAGS:
            if flags.FLAGS[name].present:
                raise UserError(
                    f"--{name} means nothing with {'--from_torch' if imports else '--to_torch'}; leave it out"
                )
        if imports and CONFIG.value is None:
            raise UserError("--from_torch needs --config, the config that the weights belong to")
        # Imported here so that a mistyped flag is reported before JAX starts.
        from jaxresnet.convert.files import to_torch_file
        from jaxresnet.convert.runs import explain_misfit, export_weights, import_weights
        from jaxresnet.torch_weights import UnfitWeights

        terminal.end_sign_of_life()
        workdir = user_path(WORKDIR.value)
        if FROM_TORCH.value is not None:
            file = user_path(FROM_TORCH.value)
            try:
                print(import_weights(file, CONFIG.value, workdir, EPOCH.value))
            except UnfitWeights as error:
                raise explain_misfit(error, file, CONFIG.value, CONFIGS) from error
        elif TO_TORCH.value is not None:
            out = output_file("--to_torch", TO_TORCH.value, FORCE.value)
            state_dict, class_names = export_weights(workdir, CHECKPOINT.value)
            out.write(to_torch_file(state_dict, out.path, class_names))
            print(f"{out.path}: {len(state_dict)} arrays")


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
