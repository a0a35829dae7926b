"""Train every arm of a table (see configs/tables.py) with several seeds, one run after another.

    jaxresnet sweep --config=configs/optimizer.py --seeds=3 --workdir=runs
    jaxresnet sweep --config=scheduler --arms=cosine,linear --workdir=runs --dry_run

Each run directory is WORKDIR/EXPERIMENT/seedN. Finished runs are skipped and interrupted ones resumed, so that the same
command goes on after a stop. Fields of every arm can be overridden, as in --config.num_epochs=20.
"""

import argparse
import pathlib
import shlex
import traceback
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxresnet import cli
from jaxresnet.config import Experiment, apply, changed_fields, check_same_training, load_experiment, split_arm
from jaxresnet.system.errors import Interrupted, UsageError, UserError, one_line, user_path
from jaxresnet.system.terminal import format_seconds, format_table
from jaxresnet.workdir.folder import read_summary
from jaxresnet.workdir.log import read_metrics


class Job(NamedTuple):
    """One run of a sweep."""

    label: str  # arm and seed, for display
    config: ConfigDict  # config with seed and overrides applied
    workdir: pathlib.Path  # run directory, relative if the sweep's is
    arguments: tuple[str, ...]  # of ``jaxresnet train``, with paths that another host may have, too

    def is_finished(self) -> bool:
        """Return True if the run is there and complete.

        Raises:
            UserError: the run directory holds a finished run with another config, or damaged files.
        """
        if read_summary(self.workdir) is None:
            return False
        check_same_training(self.config, self.workdir)
        return True

    def epochs_left(self) -> float:
        """Return the number of epochs that the run's log lacks."""
        try:
            lines = read_metrics(self.workdir)
        except UserError:
            return self.config.num_epochs
        return self.config.num_epochs - (lines[-1]["epoch"] if lines else 0)


def plan_jobs(
    name: str, arms: list[str] | None, seeds: int, overrides: dict[str, str], workdir: str | pathlib.Path
) -> list[Job]:
    """Plan a sweep: all arms with one seed, then all with the next, so that a table fills evenly.

    Arms that are the same experiment are run once.

    Args:
        name: name or path of the table's config file, and after a colon a single arm.
        arms: names of arms, with ``"paper"`` for those with a test accuracy in the paper, or None for all.
        seeds: number of seeds, counted from the config's ``seed``.
        overrides: fields to set in every config, by dotted name, as on a command line.
        workdir: folder of all runs.

    Raises:
        UsageError: unknown arm, no arm at all, invalid config, or two arms for one folder.
    """
    path, single = split_arm(name)
    experiment, name = load_experiment(path), name.removesuffix(f":{single}")
    if single and arms is None:
        arms = [single]
    jobs: dict[pathlib.Path, Job] = {}
    for seed in range(seeds):
        for arm in _chosen(experiment, arms):
            config = experiment.get_config(arm)
            apply(config, overrides)
            config.seed += seed
            inside = pathlib.PurePath(config.name, f"seed{config.seed}")
            folder = user_path(workdir) / inside
            arguments = (
                f"--config={_portable(name)}:{arm}" if arm else f"--config={_portable(name)}",
                *(f"--config.{field}={_portable(value)}" for field, value in overrides.items() if field != "seed"),
                f"--config.seed={config.seed}",
                f"--workdir={_portable(pathlib.PurePath(workdir, inside))}",
            )
            job = Job(f"{arm or config.name}, seed {config.seed}", config, folder, arguments)
            other = jobs.setdefault(folder, job)
            if changed_fields(config, other.config):
                raise UsageError(f"{other.label} and {job.label} would both run in {folder}; give each its own name")
    return list(jobs.values())


def _portable(path: str | pathlib.PurePath) -> str:
    """Return a path below the current folder relative to it, and any other text as it is, ``~`` included."""
    here = pathlib.Path.cwd()
    return str(pathlib.PurePath(path).relative_to(here)) if pathlib.PurePath(path).is_relative_to(here) else str(path)


def _chosen(experiment: Experiment, arms: list[str] | None) -> list[str]:
    if arms is None:
        return list(experiment.arms)
    in_paper = [arm for arm in experiment.arms if experiment.get_config(arm).paper.accuracy is not None]
    chosen = [arm for arm in experiment.arms if arm in arms or ("paper" in arms and arm in in_paper)]
    if not chosen or not {*arms} <= {*experiment.arms, "paper"}:
        known = ", ".join(filter(None, experiment.arms)) or "no arms"
        raise UsageError(f"--arms={','.join(arms)}: {experiment.path} has {known}")
    return chosen


def list_commands(jobs: list[Job]) -> list[str]:
    """Return a shell command per unfinished run. Include unreadable runs, so that the command reports why."""
    return [shlex.join(["jaxresnet", "train", *job.arguments]) for job in jobs if _state(job) != "finished"]


def _state(job: Job) -> str:
    try:
        if job.is_finished():
            return "finished"
    except UserError:
        return "refused"  # The run itself will report why.
    share = 1 - job.epochs_left() / job.config.num_epochs
    return f"{100 * share:.0f}% done" if share else "new"


def time_left(jobs: list[Job]) -> str:
    """Return in words how long the unfinished runs will take, at the mean pace of the sweep's finished ones."""
    seconds = epochs = left = 0.0
    for job in jobs:
        if _state(job) == "finished" and (summary := read_summary(job.workdir)):
            seconds, epochs = seconds + summary["wall_seconds"], epochs + job.config.num_epochs
        else:
            left += job.epochs_left()
    if left and not epochs:
        return "time left: ... until a run has finished"
    return f"about {format_seconds(left * seconds / epochs)} left" if left else "all finished"


def describe(jobs: list[Job]) -> str:
    """Format a table of the runs of a sweep, and the time left."""
    rows = [[job.label, _state(job), f"{job.config.num_epochs:,}"] for job in jobs]
    return f"{format_table(['run', 'state', 'epochs'], rows)}\n{len(jobs)} runs; {time_left(jobs)}"


def run_jobs(jobs: list[Job]) -> list[str]:
    """Run the jobs one after another. Skip finished runs and resume interrupted ones.

    Returns:
        One line per failed run.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived, and the current run was saved.
    """
    from jaxresnet.training import train_and_evaluate

    failures = []
    for number, job in enumerate(jobs, 1):
        print(f"\n== run {number} of {len(jobs)}: {job.label}, in {job.workdir}; {time_left(jobs)}", flush=True)
        failure = None
        try:
            if job.is_finished():
                print("finished before")
                continue
            train_and_evaluate(job.config, str(job.workdir))
        except Interrupted:
            raise
        except (UserError, OSError) as error:
            failure = f"{job.label}: {error}"
        except Exception as error:  # This model may exceed the memory, but the next may fit.
            traceback.print_exc()
            failure = f"{job.label}: {type(error).__name__}: {one_line(error)}"
        if failure:
            print(f"failed: {failure}", flush=True)
            failures.append(failure)
    print(f"\n{len(jobs) - len(failures)} of {len(jobs)} runs finished")
    return failures


def sweep(arguments: argparse.Namespace) -> None:
    """Plan the sweep that the flags describe, and print it or run it."""
    arms = None if arguments.arms is None else [arm for arm in arguments.arms.split(",") if arm]
    jobs = plan_jobs(arguments.config, arms, arguments.seeds, arguments.overrides, arguments.workdir)
    if arguments.list:
        print("\n".join(list_commands(jobs)))
    elif arguments.dry_run:
        print(describe(jobs))
    else:
        from jaxresnet.system.devices import set_up_jax

        set_up_jax()
        if failures := run_jobs(jobs):
            raise UserError(f"{len(failures)} of {len(jobs)} runs failed:\n" + "\n".join(failures))


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("sweep", __doc__)
    parser.add_config("config file of the table, or its name such as scheduler")
    parser.add_argument("--workdir", required=True, help="folder of all runs")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds per arm, counted from --config.seed")
    parser.add_argument("--arms", help='arms to run, as in --arms=adam,sgd; "paper": those with a test accuracy in it')
    parser.add_argument("--dry_run", action="store_true", help="print the runs and the time left without running them")
    parser.add_argument("--list", action="store_true", help="print one command per unfinished run without running it")
    cli.run(sweep, parser, argv)


if __name__ == "__main__":
    main()
