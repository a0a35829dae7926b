"""What a config's model consists of, layer by layer: ``python -m jaxresnet.summary --config=configs/final.py``."""

from absl import app, flags
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.files import PICTURES, output_file

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; single fields follow as in --config.model.blocks=(2,2,2).", lock_config=True
)
DRAWING = flags.DEFINE_string("drawing", None, "A picture of the architecture to write: .png, .svg or .pdf.")
FORCE = flags.DEFINE_boolean("force", False, "Overwrite the file that --drawing names.")


def main(argv: list[str]) -> None:
    with cli.command():
        cli.refuse_arguments(argv)
        # Imported here so that a mistyped flag is answered before JAX has started.
        from jaxresnet.architecture import describe_layers, format_layers
        from jaxresnet.cifar10 import IMAGE_SHAPE
        from jaxresnet.config import check_config
        from jaxresnet.train_state import create_model

        config = CONFIG.value
        out = None
        if DRAWING.value is not None:
            out = output_file("--drawing", DRAWING.value, FORCE.value, PICTURES)
        check_config(config)
        model = create_model(config)
        print(format_layers(describe_layers(model, IMAGE_SHAPE), config.dtype, config.batch_size))
        if out is None:
            return
        from jaxresnet.figures import draw_architecture

        out.write_figure(draw_architecture(model, IMAGE_SHAPE))
        print(out.path)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
