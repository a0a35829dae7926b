"""Train every arm of a table (see configs/tables.py) with several seeds, one run after another or several at a time.

    jaxresnet sweep --config=configs/optimizer.py --seeds=3 --workdir=runs
    jaxresnet sweep --config=configs/optimizer.py --seeds=3 --workdir=runs --jobs=8
    jaxresnet sweep --config=scheduler --arms=cosine,linear --workdir=runs --dry_run

Each run directory is WORKDIR/EXPERIMENT/seedN. Finished runs are skipped and interrupted ones resumed, so that the same
command goes on after a stop. Fields of every arm can be overridden, as in --config.num_epochs=20.
"""

import argparse
import functools
import pathlib
import shlex
import signal
import sys
import time
import traceback
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxresnet import cli, engines
from jaxresnet.config import Experiment, apply, changed_fields, check_same_training, load_experiment, split_arm
from jaxresnet.system.errors import Interrupted, UsageError, UserError, one_line, user_path
from jaxresnet.system.terminal import format_seconds, format_table
from jaxresnet.workdir.folder import locked, read_summary
from jaxresnet.workdir.log import read_metrics

SECONDS_BETWEEN_POLLS = 1.0


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

    def _last_line(self) -> dict[str, Any]:
        try:
            return (read_metrics(self.workdir) or [{}])[-1]
        except UserError:
            return {}  # The run itself will report why.

    def epochs_left(self) -> float:
        """Return the number of epochs that the run's log lacks."""
        return float(self.config.num_epochs - self._last_line().get("epoch", 0))

    def progress(self) -> str:
        """Return the epochs and the accuracy that the run's log ends with, in columns."""
        scores = self._last_line()
        name = next((name for name in reversed(scores) if name.endswith("_accuracy")), None)
        if name is None:
            return "starting ..."
        epochs = f"{scores.get('epoch', 0):.1f}/{self.config.num_epochs}"
        return f"epoch {epochs:>9}  {name.replace('_', ' '):>19} {scores[name]:6.2f}%"


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
    if single and arms is not None:
        raise UsageError(f"--arms={','.join(arms)}: --config={name}:{single} names an arm already; leave out one")
    overrides = {field: _portable(value) for field, value in overrides.items()}
    jobs: dict[pathlib.Path, Job] = {}
    for seed in range(seeds):
        for arm in [single] if single else _chosen(experiment, arms):
            config = experiment.get_config(arm)
            apply(config, overrides)
            config.seed += seed
            inside = pathlib.PurePath(config.name, f"seed{config.seed}")
            folder = user_path(workdir) / inside
            arguments = (
                f"--config={_portable(name)}:{arm}" if arm else f"--config={_portable(name)}",
                *(f"--config.{field}={value}" for field, value in overrides.items() if field != "seed"),
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
            train_and_evaluate(job.config, job.workdir)
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


def run_together(jobs: list[Job], engine: engines.Engine) -> list[str]:
    """Run the jobs as processes of ``engine``, as many at a time as it has room for.

    Skip finished runs and resume interrupted ones. On a terminal a table shows the runs in progress, with a bar each.

    Returns:
        One line per failed run.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived, and the runs in progress were saved.
    """
    from tqdm import tqdm

    from jaxresnet.system.processes import stop_signal

    failures: list[str] = []
    waiting = [job for job in jobs if _state(job) != "finished"]
    running: dict[pathlib.Path, tuple[Job, Any, tqdm[Any]]] = {}
    print(f"{len(waiting)} of {len(jobs)} runs to do, {engine.room} at a time", flush=True)
    width, left = max(len(job.label) for job in jobs), {job.workdir: job.epochs_left() for job in waiting}
    style = "{percentage:3.0f}%|{bar:10}| {desc}  {remaining} left"
    table = functools.partial(
        tqdm, file=sys.stdout, bar_format=style, leave=False, smoothing=0, dynamic_ncols=True, disable=None
    )
    with stop_signal() as received, table(total=sum(left.values()), desc=f"{'all runs':{width}}") as overall:
        stopped = False
        try:
            while running or (waiting and not received):
                while waiting and not received and len(running) < engine.room:
                    job = waiting.pop(0)
                    tqdm.write(f"{job.label}: started; output in {engines.log_file(job.workdir)}", sys.stdout)
                    bar = table(total=job.config.num_epochs, initial=job.config.num_epochs - left[job.workdir])
                    running[job.workdir] = job, engine.start(job.arguments, job.workdir), bar
                if received and not stopped:
                    stopped = True
                    tqdm.write("stopping: the runs in progress are being saved", sys.stdout)
                    for _, process, _ in running.values():
                        engine.stop(process)
                time.sleep(SECONDS_BETWEEN_POLLS)
                for job, process, bar in [*running.values()]:
                    bar.n = job.config.num_epochs - job.epochs_left()
                    bar.set_description_str(f"{job.label:{width}}  {job.progress()}")
                    if (status := engine.poll(process)) is None:
                        continue
                    del running[job.workdir]
                    bar.close()
                    if status == 0:
                        tqdm.write(f"{job.label}: finished; {' '.join(job.progress().split())}", sys.stdout)
                    elif not (stopped and status in (engines.STOPPED, 128 + signal.SIGINT)):
                        failures.append(f"{job.label}: {_reason(status, job.workdir)}")
                        tqdm.write(f"failed: {failures[-1]}", sys.stdout)
                overall.n = overall.total - sum(left[job.workdir] for job in waiting)
                overall.n -= sum(bar.total - bar.n for *_, bar in running.values())
                overall.refresh()
        finally:
            for _, process, _ in () if stopped else running.values():  # an error has ended the sweep
                engine.stop(process)
    if received:
        problem = f"stopped by {received[0].name} and saved the runs in progress"
        raise Interrupted(f"{problem}; the same command resumes them", 128 + received[0])
    print(f"{len(jobs) - len(failures)} of {len(jobs)} runs finished")
    return failures


def _reason(status: int | str, workdir: pathlib.Path) -> str:
    """Return why a run failed: the last line of its output, unless ``status`` says why itself."""
    log = engines.log_file(workdir)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), f"exit status {status}")
    return f"{status}; see {log}" if isinstance(status, str) else last.removeprefix("jaxresnet: ")


def sweep(arguments: argparse.Namespace) -> None:
    """Plan the sweep that the flags describe, and print it or run it."""
    arms = None if arguments.arms is None else [arm for arm in arguments.arms.split(",") if arm]
    jobs = plan_jobs(arguments.config, arms, arguments.seeds, arguments.overrides, arguments.workdir)
    own_files = [f"--with={_portable(file)}" for file in arguments.own_files]
    jobs = [job._replace(arguments=(*job.arguments, *own_files)) for job in jobs]
    if arguments.list:
        print("\n".join(list_commands(jobs)))
    elif arguments.dry_run:
        print(describe(jobs))
    elif failures := _run(jobs, arguments):
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed:\n" + "\n".join(failures))


def _run(jobs: list[Job], arguments: argparse.Namespace) -> list[str]:
    """Run the jobs where the flags say, and return a line per failed run."""
    if (arguments.cpus, arguments.gpus) != (1, 0) and arguments.on is None:
        raise UsageError("--cpus and --gpus are for --on=ray; runs on this machine share its devices evenly")
    if arguments.on is None and arguments.jobs is None:
        from jaxresnet.system.devices import set_up_jax

        set_up_jax()
        return run_jobs(jobs)
    folder = user_path(arguments.workdir)
    engine: engines.Engine
    if arguments.on is None:
        engine = engines.Local(arguments.jobs)
    else:
        engine = engines.Ray(folder, arguments.cpus, arguments.gpus, arguments.jobs)
    with locked(folder):  # Another sweep would start the same runs.
        return run_together(jobs, engine)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("sweep", __doc__)
    parser.add_config("config file of the table, or its name such as scheduler")
    parser.add_argument("--workdir", required=True, help="folder of all runs")
    parser.add_argument("--seeds", type=cli.count, default=1, help="seeds per arm, counted from --config.seed")
    parser.add_argument("--arms", help='arms to run, as in --arms=adam,sgd; "paper": those with a test accuracy in it')
    parser.add_argument("--jobs", type=cli.count, help="runs at a time, each on a share of the GPUs or CPU cores")
    parser.add_argument("--on", choices=["ray"], help="run on the nodes of a Ray cluster, which share --workdir")
    parser.add_argument("--cpus", type=cli.count, default=1, help="CPU cores of a run with --on=ray (default: 1)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of a run with --on=ray (default: 0)")
    parser.add_argument("--dry_run", action="store_true", help="print the runs and the time left without running them")
    parser.add_argument("--list", action="store_true", help="print one command per unfinished run without running it")
    cli.run(sweep, parser, argv, trains=True)


if __name__ == "__main__":
    main()
