"""Command that exports a run: ``python -m jaxresnet.export --workdir=runs/final --format=onnx``."""

import argparse

from jaxresnet import cli
from jaxresnet.export.programs import to_onnx, to_stablehlo
from jaxresnet.export.release import write_release
from jaxresnet.inference import load
from jaxresnet.system.devices import set_up_jax
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import output_file

RELEASE = "release"
FORMATS = {"stablehlo": to_stablehlo, "onnx": to_onnx}
DESCRIPTION = """
Export a run to one file that runs without this package (stablehlo, onnx), or make a release of it: a folder with the
weights in half precision, their accuracies, and a card. Commands that read a run also read a release.
"""


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("export", DESCRIPTION)
    parser.add_run()
    parser.add_argument(
        "--format",
        required=True,
        choices=[*FORMATS, RELEASE],
        help="stablehlo (for JAX, readable for six months by its promise), onnx, or release",
    )
    parser.add_argument("--out", help="file or new folder to write (default for a file: WORKDIR/model.FORMAT)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file; a release never is")
    parser.add_argument("--note", default="", help="text for a release's card about how the run was made")
    parser.add_argument("--data_dir", help="location of the data for a release's scores, if moved since training")
    cli.run(export, parser, argv)


def export(arguments: argparse.Namespace) -> None:
    """Export as the flags say."""
    if arguments.format == RELEASE:
        _write_release(arguments)
    else:
        _write_program(arguments)


def _write_program(arguments: argparse.Namespace) -> None:
    if arguments.note or arguments.data_dir:
        raise UserError("--note and --data_dir are for --format=release; leave them out")
    folder = user_path(arguments.workdir)
    if arguments.out is None and not folder.is_dir():
        raise UserError(f"{folder} holds no run: there is no such folder")
    out = output_file("--out", arguments.out or str(folder / f"model.{arguments.format}"), arguments.force)
    content = FORMATS[arguments.format](load(arguments.workdir, arguments.checkpoint))
    out.write(content)
    print(f"{out.path}: {len(content) / 1e6:.1f} MB")


def _write_release(arguments: argparse.Namespace) -> None:
    if arguments.out is None:
        raise UserError("--format=release needs --out, a new folder")
    if arguments.force or arguments.checkpoint != "last":
        raise UserError("--force and --checkpoint mean nothing with --format=release; leave them out")
    set_up_jax()
    card = write_release(arguments.workdir, arguments.out, arguments.note, arguments.data_dir)
    print(f"{arguments.out}: test accuracy {card['accuracy']['single_view']:.2f}%, single view")
