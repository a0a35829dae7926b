"""Trains every arm of a table with several seeds, one run after another:
``python -m jaxresnet.sweep --config=configs/optimizer.py --seeds=3 --workdir=runs``.
"""

import pathlib
import shlex
import time
import traceback
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from jaxresnet import cli
from jaxresnet.config import check_config, flatten
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


# Of what a matrix product reaches; configs/cpu.py was measured at a fifth and configs/final.py at a quarter, on CPU.
MODEL_SHARE = 0.25


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
                f"--config={_config_of(experiment, arm, config.name)}",
                *(f"--config.{field}={value}" for field, value in overrides.items() if field != "seed"),
                f"--config.seed={config.seed}",
                f"--workdir={folder}",
            )
            jobs.setdefault(folder, Job(f"{arm or config.name}, seed {config.seed}", config, folder, arguments))
    return list(jobs.values())


def _config_of(experiment: Experiment, arm: str, name: str) -> str:
    """What to give as ``--config``. An experiment that has a file of its own, as the baseline does, is named by it, so
    that all tables list its runs by the same command."""
    own = experiment.path.parent / f"{name}.py"
    return str(own if own.is_file() else f"{experiment.path}:{arm}" if arm else experiment.path)


def _chosen(experiment: Experiment, arms: list[str] | None) -> list[str]:
    if arms is None:
        return list(experiment.arms)
    unknown = [arm for arm in arms if arm != "paper" and arm not in experiment.arms]
    if unknown:
        known = ", ".join(experiment.arms) if experiment.arms != ("",) else "none: the file has no arms"
        raise UserError(f"--arms={','.join(arms)}: there is no arm {unknown[0]!r} in {experiment.path}; it has {known}")
    in_paper = [arm for arm in experiment.arms if experiment.get_config(arm).paper.accuracy is not None]
    return [arm for arm in experiment.arms if arm in arms or ("paper" in arms and arm in in_paper)]


class Cost(NamedTuple):
    """What a run takes from its beginning to its end.

    Attributes:
        steps: of training.
        flop: floating-point operations of training: two a multiply-add, forward and twice that backward.
    """

    steps: int
    flop: float


def count_costs(jobs: list[Job]) -> dict[pathlib.Path, Cost]:
    """The cost of each run, by its folder. Reads the data, for their number."""
    # Here and below, JAX is imported where it is needed: mistakes, --list and --help are answered before it starts.
    from jaxresnet.architecture import multiply_adds
    from jaxresnet.datasets import load_dataset
    from jaxresnet.train_state import create_model

    splits: dict[tuple, Any] = {}
    costs = {}
    for job in jobs:
        config = job.config
        key = (config.dataset.name, config.dataset.data_dir, config.model.num_classes)
        if key not in splits:
            splits[key] = load_dataset(*key).train
        images = len(splits[key]) - config.dataset.validation_size
        per_image = 6 * multiply_adds(create_model(config), splits[key].images.shape[1:])
        steps = -(-images // config.batch_size) * config.num_epochs
        costs[job.workdir] = Cost(steps, float(per_image * images * config.num_epochs))
    return costs


class Progress:
    """How much of a sweep is done, and how long the rest takes at the pace of this session."""

    def __init__(self, jobs: list[Job], costs: dict[pathlib.Path, Cost]):
        self._jobs, self._costs = jobs, costs
        self._start, self._done_at_start = time.monotonic(), self._done()

    def _done(self) -> float:
        return sum(share_done(job, self._costs[job.workdir]) * self._costs[job.workdir].flop for job in self._jobs)

    def line(self) -> str:
        finished = sum(read_summary(job.workdir) is not None for job in self._jobs)
        done, total = self._done(), sum(self._costs[job.workdir].flop for job in self._jobs)
        text = f"sweep: {finished} of {len(self._jobs)} runs finished, {100 * done / total:.0f}% of the work"
        if finished == len(self._jobs):
            return text
        pace = (done - self._done_at_start) / (time.monotonic() - self._start)
        return text + (f", about {format_seconds((total - done) / pace)} left" if pace else ", time left: measuring")


def share_done(job: Job, cost: Cost) -> float:
    """The share of a run that its own log tells of, in [0, 1]."""
    lines = read_metrics(job.workdir)
    return lines[-1]["step"] / cost.steps if lines else 0.0


def run(jobs: list[Job]) -> list[str]:
    """Runs them one after another; finished ones are skipped, interrupted ones resumed.

    Returns:
        What went wrong, a line for each run that failed.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the run that was training is saved.
    """
    from jaxresnet.train import train_and_evaluate

    progress = Progress(jobs, count_costs(jobs))
    failures = []
    for number, job in enumerate(jobs, 1):
        if read_summary(job.workdir) is not None:
            print(f"== run {number} of {len(jobs)}: {job.label}, finished before")
            continue
        print(f"\n{progress.line()}\n== run {number} of {len(jobs)}: {job.label}, in {job.workdir}", flush=True)
        failure = None
        try:
            train_and_evaluate(job.config, str(job.workdir))
        except Interrupted:
            print(progress.line(), flush=True)
            raise
        except UserError as error:
            failure = f"{job.label}: {error}"
        except Exception as error:  # such as a model that does not fit the memory: the next may
            traceback.print_exc()
            failure = f"{job.label}: {type(error).__name__}: {one_line(error)}"
        if failure:
            print(f"failed: {failure}", flush=True)
            failures.append(failure)
    print(f"\n{progress.line()}")
    return failures


def describe(jobs: list[Job], workdir: pathlib.Path) -> str:
    """What a sweep would run, and about how long that takes, as a table."""
    costs, paces = count_costs(jobs), _measured_paces(workdir)
    guessed = [job for job in jobs if _kind(job.config) not in paces]
    guess = MODEL_SHARE * _matrix_product_pace() if guessed else 0.0
    rows = []
    for job in jobs:
        cost = costs[job.workdir]
        share = 1.0 if read_summary(job.workdir) is not None else share_done(job, cost)
        state = "finished" if share == 1 else f"{100 * share:.0f}% done" if share else "new"
        seconds = (1 - share) * cost.flop / paces.get(_kind(job.config), guess)
        rows.append((job.label, state, cost.steps, cost.flop, seconds))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'run':{width}}  {'state':>9}  {'steps':>9}  {'PFLOP':>7}  time left"]
    for label, state, steps, flop, seconds in rows:
        lines.append(f"{label:{width}}  {state:>9}  {steps:9,}  {flop / 1e15:7.3g}  {format_seconds(seconds)}")
    lines.append(f"{len(jobs)} runs, about {format_seconds(sum(row[4] for row in rows))} left")
    if guessed:
        lines.append(
            f"The time of {len(guessed)} of them is a rough guess, {MODEL_SHARE:.0%} of what a matrix product just "
            f"reached: no run of their model has finished in {workdir} on this device yet."
        )
    return "\n".join(lines)


def _kind(config: ConfigDict) -> str:
    """Runs of one kind train at the same pace."""
    return repr((flatten(config.model.to_dict()), config.dtype)).replace("[", "(").replace("]", ")")


def _measured_paces(workdir: pathlib.Path) -> dict[str, float]:
    """FLOP/s, evaluation included, of each kind of run that finished in ``workdir`` on this device."""
    from jaxresnet.environment import device_name
    from jaxresnet.runs import read_runs

    totals: dict[str, list[float]] = {}
    for run in read_runs(workdir):
        if run.summary and run.summary["device"] == device_name():
            cost = count_costs([Job("", run.config, run.path, ())])[run.path]
            total = totals.setdefault(_kind(run.config), [0.0, 0.0])
            total[0] += cost.flop
            total[1] += run.summary["wall_seconds"]
    return {kind: flop / seconds for kind, (flop, seconds) in totals.items()}


def _matrix_product_pace() -> float:
    """FLOP/s of a large float32 matrix product, the best of five."""
    import jax
    import jax.numpy as jnp

    size = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.monotonic() - start)
    return 2 * size**3 / min(seconds)


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
        if DRY_RUN.value:
            print(describe(jobs, user_path(WORKDIR.value)))
            return
        failures = run(jobs)
        if failures:
            raise UserError(f"{len(failures)} of {len(jobs)} runs failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=cli.parse_flags)
