"""Trains what a config file describes: ``python -m jaxresnet.main --config=configs/final.py --workdir=runs/final``."""

from absl import app, flags
from ml_collections import config_flags

from jaxresnet import cli, interrupts

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; single fields follow as in --config.batch_size=64.", lock_config=True
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    'For one run by several processes: HOST:PORT of the first, or "auto" under SLURM, mpirun or in a TPU pod.',
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are, unless --coordinator=auto.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, unless --coordinator=auto.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder of the run; a run that is there already is resumed.", required=True
)


def main(argv: list[str]) -> None:
    with cli.command():
        cli.refuse_arguments(argv)
        # Imported here so that a mistyped flag is answered before JAX has started.
        with interrupts.ending_at_once():
            from jaxresnet import hosts
            from jaxresnet.environment import set_up_jax
            from jaxresnet.train import train_and_evaluate

        set_up_jax()
        if COORDINATOR.value is not None:
            hosts.connect(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        with hosts.ending_others_too():
            train_and_evaluate(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
