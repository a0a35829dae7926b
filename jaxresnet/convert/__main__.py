"""Import PyTorch weights as a run, or export the weights of a run to PyTorch.

python -m jaxresnet.convert --from_torch ckpt.pth --config=configs/final.py --workdir=runs/imported
python -m jaxresnet.convert --to_torch final.pth --workdir=runs/final
"""

import argparse

from jaxresnet import cli
from jaxresnet.config import CONFIGS, get_config
from jaxresnet.system.errors import UsageError, user_path
from jaxresnet.system.files import output_file

# Flags of one direction only.
IMPORT_FLAGS, EXPORT_FLAGS = ("config", "epoch"), ("checkpoint", "force")


def convert(arguments: argparse.Namespace) -> None:
    """Import or export weights, as the flags say."""
    if (arguments.from_torch is None) == (arguments.to_torch is None):
        raise UsageError("give one of --from_torch=FILE and --to_torch=FILE")
    imports = arguments.from_torch is not None
    for name in EXPORT_FLAGS if imports else IMPORT_FLAGS:
        if getattr(arguments, name) not in (None, False):
            raise UsageError(f"--{name} means nothing with {'--from_torch' if imports else '--to_torch'}; leave it out")
    if imports and arguments.config is None:
        raise UsageError("--from_torch needs --config, the config that the weights belong to")
    config = get_config(arguments.config, arguments.overrides) if imports else None
    # Imported here so that a mistyped flag is reported before JAX starts.
    from jaxresnet.convert.files import to_torch_file
    from jaxresnet.convert.runs import explain_misfit, export_weights, import_weights
    from jaxresnet.torch_weights import UnfitWeights

    workdir = user_path(arguments.workdir)
    if config is not None:
        file = user_path(arguments.from_torch)
        try:
            print(import_weights(file, config, workdir, arguments.epoch))
        except UnfitWeights as error:
            raise explain_misfit(error, file, config, CONFIGS) from error
    else:
        out = output_file("--to_torch", arguments.to_torch, arguments.force)
        state_dict, class_names = export_weights(workdir, arguments.checkpoint or "last")
        out.write(to_torch_file(state_dict, out.path, class_names))
        print(f"{out.path}: {len(state_dict)} arrays")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("convert", __doc__)
    parser.add_config("config file that the weights belong to; only with --from_torch", required=False)
    text = "run directory: a new one with --from_torch, an existing one with --to_torch"
    parser.add_argument("--workdir", required=True, help=text)
    parser.add_argument("--from_torch", help="PyTorch checkpoint or .safetensors file to import")
    parser.add_argument("--to_torch", help="file to write: .safetensors, or any other ending for torch.load")
    text = "epochs that count as trained when training resumes (default: the number in the file, or else 0)"
    parser.add_argument("--epoch", type=int, help=text)
    parser.add_argument("--checkpoint", help=f"{cli.CHECKPOINT_HELP}; only with --to_torch")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --to_torch names")
    cli.run(convert, parser, argv)


if __name__ == "__main__":
    main()
