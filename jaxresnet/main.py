"""Train what a config file describes, or resume the run in --workdir.

    python -m jaxresnet.main --config=configs/final.py --workdir=runs/final
    python -m jaxresnet.main --config=quickstart --workdir=runs/mine --config.num_epochs=20

The config is a file, or the name of one of this project's. configs/default.py lists all fields.
"""

from absl import app, flags
from ml_collections import config_flags

from jaxresnet import cli
from jaxresnet.system import signals
from jaxresnet.system.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, or its name such as final. Override single fields as in --config.batch_size=64.",
    lock_config=True,
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    'HOST:PORT of the first process, for a run with several. Use "auto" under SLURM, mpirun or in a TPU pod.',
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, unless --coordinator=auto.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0, unless --coordinator=auto.")
WORKDIR = flags.DEFINE_string("workdir", None, "Run directory. A run that it already holds is resumed.", required=True)


def main(argv: list[str]) -> None:
    """Run the command."""
    with cli.command():
        cli.refuse_arguments(argv)
        # Imported here so that a mistyped flag is reported before JAX starts.
        with signals.ending_at_once():
            from jaxresnet.system import processes
            from jaxresnet.system.devices import set_up_jax
            from jaxresnet.training import train_and_evaluate

        if COORDINATOR.value is None and (NUM_PROCESSES.value, PROCESS_ID.value) != (None, None):
            raise UserError("--num_processes and --process_id are for several processes: give --coordinator too")
        set_up_jax()
        if COORDINATOR.value is not None:
            processes.connect(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        with processes.ending_others_too():
            train_and_evaluate(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
