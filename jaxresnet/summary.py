"""Print a config's model layer by layer: shapes, parameters, operations, and memory in training.

python -m jaxresnet.summary --config=configs/final.py
"""

from absl import app, flags
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.system import terminal

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file. Override single fields as in --config.model.blocks=(2,2,2).", lock_config=True
)


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
        check_config(config)
        model = create_model(config)
        terminal.end_sign_of_life()
        print(format_layers(describe_layers(model, IMAGE_SHAPE), config.batch_size))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
