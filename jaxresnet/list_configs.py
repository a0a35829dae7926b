"""List the configs that come with the package, and the arms of each.

    jaxresnet configs

A config is trained by its name, an arm by NAME:ARM, as in ``jaxresnet train --config=scheduler:linear``.
"""

import argparse
import textwrap

from jaxresnet import cli
from jaxresnet.config import list_shipped, load_experiment


def list_configs(arguments: argparse.Namespace) -> None:
    """Print name, title and arms of each config."""
    for path in list_shipped():
        experiment = load_experiment(path)
        title = experiment.title or experiment.contents["__doc__"].partition("\n")[0]
        print(f"{path.stem:13} {title}")
        if arms := ", ".join(experiment.arms):
            print(textwrap.fill(f"arms: {arms}", 110, initial_indent=" " * 14, subsequent_indent=" " * 20))


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    cli.run(list_configs, cli.Parser("configs", __doc__), argv)


if __name__ == "__main__":
    main()
