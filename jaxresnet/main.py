"""Train what a config describes, or resume the run in --workdir.

    jaxresnet train --config=configs/final.py --workdir=runs/final
    jaxresnet train --config=quickstart --workdir=runs/mine --config.num_epochs=20

The config is a file, or the name of one of this project's. configs/default.py lists all fields.
"""

import argparse

from jaxresnet import cli
from jaxresnet.config import get_config
from jaxresnet.system.errors import UsageError


def train(arguments: argparse.Namespace) -> None:
    """Train as the flags say."""
    config = get_config(arguments.config, arguments.overrides)
    if arguments.coordinator is None and (arguments.num_processes, arguments.process_id) != (None, None):
        raise UsageError("--num_processes and --process_id are for several processes: give --coordinator too")

    from jaxresnet.system import processes
    from jaxresnet.system.devices import set_up_jax
    from jaxresnet.training import train_and_evaluate

    set_up_jax()
    if arguments.coordinator is not None:
        processes.connect(arguments.coordinator, arguments.num_processes, arguments.process_id)
    with processes.ending_others_too():
        train_and_evaluate(config, arguments.workdir)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("train", __doc__)
    parser.add_config()
    parser.add_argument("--workdir", required=True, help="run directory; a run that it already holds is resumed")
    text = 'HOST:PORT of the first of several processes, or "auto" under SLURM, mpirun or in a TPU pod'
    parser.add_argument("--coordinator", help=text)
    parser.add_argument("--num_processes", type=int, help="number of processes, unless --coordinator=auto")
    parser.add_argument("--process_id", type=int, help="index of this process, from 0, unless --coordinator=auto")
    cli.run(train, parser, argv, trains=True)


if __name__ == "__main__":
    main()
