"""Print a config's model layer by layer: shapes, parameters, operations, and memory in training.

    jaxresnet summary --config=configs/final.py

The figures of each layer are those of one image.
"""

import argparse

from jaxresnet import cli
from jaxresnet.config import get_config
from jaxresnet.system.terminal import format_table


def print_layers(arguments: argparse.Namespace) -> None:
    """Print the layers of the model that the flags describe."""
    config = get_config(arguments.config, arguments.overrides)

    from jaxresnet.core.costs import Layer, describe_layers
    from jaxresnet.core.state import create_model

    layers = describe_layers(create_model(config), (config.dataset.image_size, config.dataset.image_size, 3))
    total = Layer("in all", "", (), *(sum(column) for column in list(zip(*layers, strict=True))[3:]))
    rows = [
        (
            layer.path,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
            f"{layer.output_bytes / 1024:,.1f} KiB",
        )
        for layer in (*layers, total)
    ]
    print(format_table(("layer", "kind", "output", "parameters", "multiply-adds", "memory"), rows, left=3))
    print(
        f"{total.multiply_adds / 1e6:,.0f}M multiply-adds per image in the forward pass, about three times as many in "
        f"training; outputs of {config.batch_size * total.output_bytes / 2**20:,.0f} MiB per batch of "
        f"{config.batch_size}"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("summary", __doc__)
    parser.add_config()
    cli.run(print_layers, parser, argv)


if __name__ == "__main__":
    main()
