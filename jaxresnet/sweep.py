"""Trains every arm of a table with several seeds, one run after another:
``python -m jaxresnet.sweep --config=configs/optimizer.py --seeds=3 --workdir=runs``.
"""

import pathlib
import shlex
import time
import traceback
from typing import NamedTuple

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.config import check_config
from jaxresnet.errors import Interrupted, UserError, one_line, user_path
from jaxresnet.experiments import Experiment, load_experiment
from jaxresnet.metrics import format_seconds, read_metrics
from jaxresnet.summary import read_summary

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file of the table; single fields follow as in --config.num_epochs=20 and hold for every arm.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of all runs; each gets WORKDIR/EXPERIMENT/seedN.")
SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds each arm is run with, counted from --config.seed.", 1)
ARMS = flags.DEFINE_list("arms", None, 'Only these arms, as in --arms=adam,sgd; "paper": those that the paper has.')
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would be run and what it would cost, and run nothing.")
LIST = flags.DEFINE_bool("list", False, "Print one command a run that has not finished, and run nothing.")


class Job(NamedTuple):
    """One run of a sweep.

    Attributes:
        label: arm and seed, for people.
        config: with the seed and the overrides in it.
        workdir: of the run.
        arguments: of ``jaxresnet.main`` for this run.
    """

    label: str
    config: ConfigDict
    workdir: pathlib.Path
    arguments: tuple[str, ...]


def plan(
    experiment: Experiment, arms: list[str] | None, seeds: int, overrides: dict[str, object], workdir: pathlib.Path
) -> list[Job]:
    """The runs of a sweep: all arms with one seed, then all with the next, so that a table fills evenly.

    Arms that are the same experiment are run once.

    Args:
        experiment: the table.
        arms: names of arms, ``"paper"`` for those with a figure in the paper; None for all.
        seeds: how many.
        overrides: fields of every config, by dotted name; the seeds count from ``seed``, or from 0.
        workdir: of the sweep.

    Raises:
        UserError: an unknown arm, or a config that cannot work.
    """
    jobs = {}
    for seed in range(seeds):
        for arm in _chosen(experiment, arms):
            config = experiment.get_config(arm)
            config.update_from_flattened_dict(overrides)
            config.seed += seed
            check_config(config)
            folder = workdir / config.name / f"seed{config.seed}"
            arguments = (
                f"--config={experiment.path}" + (f":{arm}" if arm else ""),
                *(f"--config.{field}={value}" for field, value in overrides.items() if field != "seed"),
                f"--config.seed={config.seed}",
                f"--workdir={folder}",
            )
            jobs.setdefault(folder, Job(f"{arm or config.name}, seed {config.seed}", config, folder, arguments))
    return list(jobs.values())


def _chosen(experiment: Experiment, arms: list[str] | None) -> list[str]:
    if arms is None:
        return list(experiment.arms)
    unknown = [arm for arm in arms if arm != "paper" and arm not in experiment.arms]
    if unknown:
        known = ", ".join(experiment.arms) if experiment.arms != ("",) else "none: the file has no arms"
        raise UserError(f"--arms={','.join(arms)}: there is no arm {unknown[0]!r} in {experiment.path}; it has {known}")
    in_paper = [arm for arm in experiment.arms if experiment.get_config(arm).paper.accuracy is not None]
    return [arm for arm in experiment.arms if arm in arms or ("paper" in arms and arm in in_paper)]


class Progress:
    """How much of a sweep is done, in training steps, and how long the rest takes at the pace of this session."""

    def __init__(self, jobs: list[Job], steps: dict[pathlib.Path, int]):
        self._jobs, self._steps = jobs, steps
        self._start, self._done_at_start = time.monotonic(), sum(steps_done(job) for job in jobs)

    def line(self) -> str:
        finished = sum(read_summary(job.workdir) is not None for job in self._jobs)
        done, total = sum(steps_done(job) for job in self._jobs), sum(self._steps.values())
        text = f"sweep: {finished} of {len(self._jobs)} runs finished, {100 * done / total:.0f}% of {total:,} steps"
        seconds, steps = time.monotonic() - self._start, done - self._done_at_start
        if steps and done < total:
            text += f", about {format_seconds(seconds / steps * (total - done))} left"
        return text


def steps_done(job: Job) -> int:
    """The last step that the run's own log tells of."""
    lines = read_metrics(job.workdir)
    return lines[-1]["step"] if lines else 0


def total_steps(jobs: list[Job]) -> dict[pathlib.Path, int]:
    """How many training steps each run takes in all, by its folder. Reads the data, for their number."""
    from jaxresnet.datasets import load_dataset

    sizes: dict[tuple, int] = {}
    steps = {}
    for job in jobs:
        dataset = job.config.dataset
        key = (dataset.name, dataset.data_dir, job.config.model.num_classes)
        if key not in sizes:
            sizes[key] = len(load_dataset(*key).train)
        images = sizes[key] - dataset.validation_size
        steps[job.workdir] = -(-images // job.config.batch_size) * job.config.num_epochs
    return steps


def run(jobs: list[Job]) -> list[str]:
    """Runs them one after another; finished ones are skipped, interrupted ones resumed.

    Returns:
        What went wrong, a line for each run that failed.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the run that was training is saved.
    """
    # Imported here so that mistakes, --list and --help are answered before JAX has started.
    from jaxresnet.train import train_and_evaluate

    progress = Progress(jobs, total_steps(jobs))
    failures = []
    for number, job in enumerate(jobs, 1):
        if read_summary(job.workdir) is not None:
            continue
        print(f"\n{progress.line()}\n== run {number} of {len(jobs)}: {job.label}, in {job.workdir}", flush=True)
        try:
            train_and_evaluate(job.config, str(job.workdir))
        except Interrupted:
            print(progress.line())
            raise
        except UserError as error:
            failures.append(f"{job.label}: {error}")
        except Exception as error:  # such as a model that does not fit the memory: the others may
            traceback.print_exc()
            failures.append(f"{job.label}: {type(error).__name__}: {one_line(error)}")
        if failures and failures[-1].startswith(job.label):
            print(f"failed: {failures[-1]}", flush=True)
    print(f"\n{progress.line()}")
    return failures


def main(argv: list[str]) -> None:
    with cli.command():
        if argv[1:]:
            raise UserError(f"{argv[1]!r} is no flag; did you mean --{argv[1]}?")
        path, _, arm = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        experiment = load_experiment(pathlib.Path(path))
        arms = ARMS.value if ARMS.value is not None else [arm] if arm else None
        jobs = plan(experiment, arms, SEEDS.value, overrides, user_path(WORKDIR.value))
        if LIST.value:
            for job in jobs:
                if read_summary(job.workdir) is None:
                    print(shlex.join(["python", "-m", "jaxresnet.main", *job.arguments]))
            return
        failures = run(jobs)
        if failures:
            raise UserError(f"{len(failures)} of {len(jobs)} runs failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=cli.parse_flags)
