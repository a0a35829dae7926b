"""Trains every arm of a table with several seeds, one run after another:
``python -m jaxresnet.sweep --config=configs/optimizer.py --seeds=3 --workdir=runs``.
"""

import pathlib
import shlex
import traceback

from absl import app, flags
from ml_collections.config_flags import config_flags

from jaxresnet import cli, interrupts
from jaxresnet.errors import Interrupted, UserError, one_line, user_path
from jaxresnet.experiments import load_experiment
from jaxresnet.jobs import Job, plan_jobs

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file of the table; single fields follow as in --config.num_epochs=20 and hold for every arm.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder of all runs; each gets WORKDIR/EXPERIMENT/seedN.", required=True
)
SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds each arm is run with, counted from --config.seed.", 1)
ARMS = flags.DEFINE_list("arms", None, 'Only these arms, as in --arms=adam,sgd; "paper": those that the paper has.')
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would be run and what it would cost, and run nothing.")
LIST = flags.DEFINE_bool("list", False, "Print one command a run that has not finished, and run nothing.")


def run_jobs(jobs: list[Job]) -> list[str]:
    """Runs them one after another; finished ones are skipped, interrupted ones resumed.

    Returns:
        What went wrong, a line for each run that failed.

    Raises:
        UserError: data that cannot be read.
        Interrupted: SIGINT or SIGTERM came; the run that was training is saved.
    """
    # Imported here so that mistakes, --list and --help are answered before JAX has started.
    with interrupts.ending_at_once():
        from jaxresnet.costs import Progress, count_costs
        from jaxresnet.train import train_and_evaluate

    progress = Progress(jobs, count_costs(jobs))
    failures = []
    for number, job in enumerate(jobs, 1):
        print(f"\n== run {number} of {len(jobs)}: {job.label}, in {job.workdir}; {progress.line()}", flush=True)
        failure = None
        try:
            if job.is_finished():
                print("finished before")
                continue
            train_and_evaluate(job.config, str(job.workdir), progress.line)
        except Interrupted:
            raise
        except UserError as error:
            failure = f"{job.label}: {error}"
        except Exception as error:  # such as a model that does not fit the memory: the next may
            traceback.print_exc()
            failure = f"{job.label}: {type(error).__name__}: {one_line(error)}"
        if failure:
            print(f"failed: {failure}", flush=True)
            failures.append(failure)
    print(f"\n{len(jobs) - len(failures)} of {len(jobs)} runs finished; {progress.line()}")
    return failures


def list_commands(jobs: list[Job]) -> list[str]:
    """A shell command for each run that has not finished; where that cannot be known, the command will say why."""
    commands = []
    for job in jobs:
        try:
            finished = job.is_finished()
        except UserError:
            finished = False
        if not finished:
            commands.append(shlex.join(["python", "-m", "jaxresnet.main", *job.arguments]))
    return commands


def main(argv: list[str]) -> None:
    with cli.command():
        cli.refuse_arguments(argv)
        path, _, arm = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        experiment = load_experiment(pathlib.Path(path))
        arms = ARMS.value if ARMS.value is not None else [arm] if arm else None
        jobs = plan_jobs(experiment, arms, SEEDS.value, overrides, user_path(WORKDIR.value))
        if LIST.value:
            print("\n".join(list_commands(jobs)))
        elif DRY_RUN.value:
            from jaxresnet.costs import describe

            print(describe(jobs, user_path(WORKDIR.value)))
        else:
            with interrupts.ending_at_once():
                from jaxresnet.environment import set_up_jax

            set_up_jax()
            if failures := run_jobs(jobs):
                raise UserError(f"{len(failures)} of {len(jobs)} runs failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
