"""Train every arm of a table with several seeds, one run after another.

python -m jaxresnet.sweep --config=configs/optimizer.py --seeds=3 --workdir=runs
python -m jaxresnet.sweep --config=scheduler --arms=cosine,linear --workdir=runs --dry_run
"""

import pathlib
import shlex
import traceback

from absl import app, flags
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.cli.config_files import load_experiment
from jaxresnet.sweep.plan import Job, plan_jobs
from jaxresnet.system import signals, terminal
from jaxresnet.system.errors import Interrupted, UserError, one_line, user_path

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file of the table. Override single fields of every arm as in --config.num_epochs=20.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of all runs. Each run directory is WORKDIR/EXPERIMENT/seedN.", required=True
)
SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds per arm, counted from --config.seed.", 1)
ARMS = flags.DEFINE_list("arms", None, 'Arms to run, as in --arms=adam,sgd. "paper" stands for those of the paper.')
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the runs and their cost without running them.")
LIST = flags.DEFINE_bool("list", False, "Print one command per unfinished run without running it.")


def run_jobs(jobs: list[Job]) -> list[str]:
    """Run the jobs one after another. Skip finished runs and resume interrupted ones.

    Returns:
        One line per failed run.

    Raises:
        UserError: unreadable data.
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived, and the current run was saved.
    """
    # Imported here so that mistakes, --list and --help are answered before JAX starts.
    with signals.ending_at_once():
        from jaxresnet.sweep.cost import SweepProgress, count_costs
        from jaxresnet.training import train_and_evaluate

    progress = SweepProgress(jobs, count_costs(jobs))
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
        except Exception as error:  # This model may exceed the memory, but the next may fit.
            traceback.print_exc()
            failure = f"{job.label}: {type(error).__name__}: {one_line(error)}"
        if failure:
            print(f"failed: {failure}", flush=True)
            failures.append(failure)
    print(f"\n{len(jobs) - len(failures)} of {len(jobs)} runs finished; {progress.line()}")
    return failures


def list_commands(jobs: list[Job]) -> list[str]:
    """Return a shell command per unfinished run. Include unreadable runs, so that the command reports why."""
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
    """Run the command."""
    with cli.command():
        cli.refuse_arguments(argv)
        path, _, arm = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        experiment = load_experiment(pathlib.Path(path))
        arms = ARMS.value if ARMS.value is not None else [arm] if arm else None
        jobs = plan_jobs(experiment, arms, SEEDS.value, overrides, user_path(WORKDIR.value))
        if LIST.value:
            terminal.end_sign_of_life()
            print("\n".join(list_commands(jobs)))
        elif DRY_RUN.value:
            from jaxresnet.sweep.cost import describe

            terminal.end_sign_of_life()
            print(describe(jobs, user_path(WORKDIR.value)))
        else:
            with signals.ending_at_once():
                from jaxresnet.system.devices import set_up_jax

            set_up_jax()
            if failures := run_jobs(jobs):
                raise UserError(f"{len(failures)} of {len(jobs)} runs failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=cli.parse_flags)
