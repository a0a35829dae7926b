"""What a config's model consists of, layer by layer: ``python -m jaxresnet.summary --config=configs/final.py``."""

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.architecture import describe_layers
from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.config import check_config
from jaxresnet.errors import UserError
from jaxresnet.files import output_path
from jaxresnet.train_state import create_model

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; single fields follow as in --config.model.blocks=(2,2,2).", lock_config=True
)
DRAWING = flags.DEFINE_string("drawing", None, "A picture of the architecture to write: .png, .svg or .pdf.")
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --drawing names.")

FLOAT_BYTES = 4  # parameters are float32 whatever the computation is


def format_summary(config: ConfigDict) -> str:
    """A line a layer: its output for one image, trainable parameters, multiply-adds of one image in the forward pass,
    and the memory that its output takes; then the sums.

    Raises:
        UserError: a config that cannot work.
    """
    check_config(config)
    layers = describe_layers(create_model(config), IMAGE_SHAPE)
    rows = [
        (
            layer.path,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            _size(layer.output_bytes),
        )
        for layer in layers
    ]
    parameters, multiply_adds, memory = (
        sum(getattr(layer, field) for layer in layers) for field in ("parameters", "multiply_adds", "output_bytes")
    )
    header = ("layer", "kind", "output", "parameters", "multiply-adds", "memory")
    totals = ("in all", "", "", f"{parameters:,}", f"{multiply_adds:,}", _size(memory))
    widths = [max(map(len, column)) for column in zip(header, *rows, totals, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:3], widths[:3], strict=True)]
        return "  ".join(cells + [f"{cell:>{width}}" for cell, width in zip(row[3:], widths[3:], strict=True)]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    batch = config.batch_size
    return "\n".join(
        [line(header), rule, *map(line, rows), rule, line(totals)]
        + [
            "",
            f"{parameters:,} parameters, {_size(FLOAT_BYTES * parameters)}; {multiply_adds / 1e6:,.0f}M multiply-adds "
            f"an image forward, about three times as many in a training step",
            f"layer outputs in {config.dtype}: {_size(memory)} an image, {_size(batch * memory)} for a batch of {batch}",
        ]
    )


def save_drawing(config: ConfigDict, path: str, force: bool) -> None:
    """Draws the architecture to a file, in the format of its ending.

    Raises:
        UserError: the file exists, cannot be written, or its ending is that of no picture.
    """
    out = output_path("--drawing", path, force)
    # Imported here because drawing takes a second to import.
    from jaxresnet.figures import draw_architecture

    try:
        draw_architecture(create_model(config), IMAGE_SHAPE).savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"--drawing={path}: {error}") from error


def _size(number: int) -> str:
    """Of bytes: such as 1.4 KiB or 25.0 MiB."""
    size, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.1f} {units[0]}" if units[0] != "B" else f"{number} B"


def main(argv: list[str]) -> None:
    with cli.command():
        cli.refuse_arguments(argv)
        print(format_summary(CONFIG.value))
        if DRAWING.value is not None:
            save_drawing(CONFIG.value, DRAWING.value, FORCE.value)
            print(DRAWING.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
