"""Print a config's model layer by layer: shapes, parameters, operations, and memory in training.

python -m jaxresnet.summary --config=configs/final.py
"""

from absl import app, flags
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.system import terminal
from jaxresnet.system.files import PICTURES, output_file

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file. Override single fields as in --config.model.blocks=(2,2,2).", lock_config=True
)
DRAWING = flags.DEFINE_string("drawing", None, "Picture of the architecture to write: .png, .svg, .pdf, .jpg or .webp.")
FORCE = flags.DEFINE_boolean("force", False, "Overwrite an existing --drawing file.")


def main(argv: list[str]) -> None:
    """Run the command."""
    with cli.command():
        cli.refuse_arguments(argv)
        # Imported here so that a mistyped flag is reported before JAX starts.
        from jaxresnet.core.costs import describe_layers, format_layers
        from jaxresnet.core.state import create_model
        from jaxresnet.data.cifar import IMAGE_SHAPE
        from jaxresnet.workdir.config import check_config

        config = CONFIG.value
        out = None
        if DRAWING.value is not None:
            out = output_file("--drawing", DRAWING.value, FORCE.value, PICTURES)
        check_config(config)
        model = create_model(config)
        terminal.end_sign_of_life()
        print(format_layers(describe_layers(model, IMAGE_SHAPE), config.batch_size))
        if out is None:
            return
        from jaxresnet.report.figures import draw_architecture

        out.write_figure(draw_architecture(model, IMAGE_SHAPE))
        print(out.path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
