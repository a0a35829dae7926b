"""Print a config's model layer by layer: shapes, parameters, operations, and memory in training.

python -m jaxresnet.summary --config=configs/final.py
"""

import argparse

from jaxresnet import cli
from jaxresnet.config import get_config


def print_layers(arguments: argparse.Namespace) -> None:
    """Print the layers of the model that the flags describe."""
    config = get_config(arguments.config, arguments.overrides)

    from jaxresnet.core.costs import describe_layers, format_layers
    from jaxresnet.core.state import create_model
    from jaxresnet.data.cifar import IMAGE_SHAPE

    print(format_layers(describe_layers(create_model(config), IMAGE_SHAPE), config.batch_size))


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("summary", __doc__)
    parser.add_config()
    cli.run(print_layers, parser, argv)


if __name__ == "__main__":
    main()
