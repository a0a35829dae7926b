"""What the runs of a sweep cost, and how long what is left of them takes."""

import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxresnet.datasets import load_dataset
from jaxresnet.environment import device_name
from jaxresnet.errors import UserError
from jaxresnet.flop import flop_per_image, flop_until
from jaxresnet.jobs import Job
from jaxresnet.metrics import format_seconds
from jaxresnet.runs import read_runs

# Of what a matrix product reaches: configs/cpu.py was measured at a half and configs/final.py at 1.2 times, on CPU.
MODEL_SHARE = 0.5


class Cost(NamedTuple):
    """What a run takes from its beginning to its end.

    Attributes:
        steps: of training.
        flop: floating-point operations of training.
    """

    steps: int
    flop: float


def count_costs(jobs: list[Job]) -> dict[pathlib.Path, Cost]:
    """The cost of each run, by its folder. Reads the data, for their number.

    Raises:
        UserError: data that cannot be read.
    """
    splits: dict[tuple[str, str | None, int], Any] = {}
    costs = {}
    for job in jobs:
        config = job.config
        key = (config.dataset.name, config.dataset.data_dir, config.model.num_classes)
        if key not in splits:
            splits[key] = load_dataset(*key).train
        images = len(splits[key]) - config.dataset.validation_size
        steps = -(-images // config.batch_size) * config.num_epochs
        costs[job.workdir] = Cost(steps, flop_per_image(config) * images * config.num_epochs)
    return costs


class Progress:
    """How much of a sweep is done, and how long the rest takes at the pace since it was started."""

    def __init__(self, jobs: list[Job], costs: dict[pathlib.Path, Cost]):
        self._jobs, self._costs = jobs, costs
        self._shares = dict.fromkeys(costs, 0.0)
        self._start, self._done_at_start = time.monotonic(), self._done()

    def _done(self) -> float:
        """FLOP. The logs of runs that were complete are not read again: on an accelerator epochs are short."""
        for job in self._jobs:
            if self._shares[job.workdir] < 1:
                self._shares[job.workdir] = _share_done(job, self._costs[job.workdir])
        return sum(share * self._costs[workdir].flop for workdir, share in self._shares.items())

    def line(self) -> str:
        """Such as ``sweep: 40% of the work, about 2h05m left``."""
        done, total = self._done(), sum(cost.flop for cost in self._costs.values())
        text = f"sweep: {100 * done / total:.0f}% of the work"
        # A resumed run may begin before its log's end, and the pace come out negative for a while.
        pace = (done - self._done_at_start) / (time.monotonic() - self._start)
        if done >= total:
            return text
        return text + (
            f", about {format_seconds((total - done) / pace)} left" if pace > 0 else ", time left: measuring"
        )


def _share_done(job: Job, cost: Cost) -> float:
    epochs = job.config.num_epochs
    done, whole = flop_until(job.config, epochs * np.array([job.steps_done() / cost.steps, 1.0]))
    return float(done / whole)


def describe(jobs: list[Job], workdir: pathlib.Path) -> str:
    """What a sweep would run, and about how long that takes, as a table.

    Raises:
        UserError: data that cannot be read.
    """
    costs, paces = count_costs(jobs), _measured_paces(workdir)
    guessed = [job for job in jobs if _kind(job.config) not in paces]
    guess = MODEL_SHARE * matrix_product_pace() if guessed else 0.0
    rows = []
    for job in jobs:
        cost = costs[job.workdir]
        share, state = _share_done(job, cost), "new"
        try:
            if job.is_finished():
                share, state = 1.0, "finished"
            elif share:
                state = f"{100 * share:.0f}% done"
        except UserError:
            state = "refused"  # the run itself says why
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
    return json.dumps([config.model.to_dict(), config.dtype], sort_keys=True)


def _measured_paces(workdir: pathlib.Path) -> dict[str, float]:
    """FLOP/s, evaluation included, of each kind of run that finished in ``workdir`` on this device."""
    flop: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for run in read_runs(workdir):
        if run.summary and run.summary["device"] == device_name():
            kind = _kind(run.config)
            images = run.summary["images_per_second"] * run.summary["train_seconds"]
            flop[kind] = flop.get(kind, 0.0) + images * flop_per_image(run.config)
            seconds[kind] = seconds.get(kind, 0.0) + run.summary["wall_seconds"]
    return {kind: flop[kind] / seconds[kind] for kind in flop}


def matrix_product_pace(dtype: str = "float32") -> float:
    """FLOP/s of a large matrix product, the best of five: what a model could reach at the utmost."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.monotonic() - start)
    return 2 * size**3 / min(seconds)
