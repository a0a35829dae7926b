"""Cost of a sweep, and the time left."""

import json
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxresnet.core.costs import flop_per_image, flop_until
from jaxresnet.data.cifar import IMAGE_SHAPE
from jaxresnet.data.loading import load_dataset
from jaxresnet.sweep.plan import Job
from jaxresnet.system.devices import device_name
from jaxresnet.system.errors import UserError
from jaxresnet.system.terminal import format_seconds
from jaxresnet.workdir.runs import read_runs


class Cost(NamedTuple):
    """Cost of a whole run.

    Attributes:
        steps: training steps.
        flop: floating-point operations of training.
    """

    steps: int
    flop: float


def count_costs(jobs: list[Job]) -> dict[pathlib.Path, Cost]:
    """Count the cost of each run, by run directory. Load the data sets to know their sizes.

    Raises:
        UserError: unreadable data.
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
        costs[job.workdir] = Cost(steps, flop_per_image(config, IMAGE_SHAPE) * images * config.num_epochs)
    return costs


class SweepProgress:
    """Share of a sweep that is done, and the time left at the pace since this object was created."""

    def __init__(self, jobs: list[Job], costs: dict[pathlib.Path, Cost]):
        self._jobs, self._costs = jobs, costs
        self._shares = dict.fromkeys(costs, 0.0)
        self._start, self._done_at_start = time.monotonic(), self._done()

    def _done(self) -> float:
        """Return the FLOP done. Logs of complete runs are not read again, because epochs can be short."""
        for job in self._jobs:
            if self._shares[job.workdir] < 1:
                self._shares[job.workdir] = _share_done(job, self._costs[job.workdir])
        return sum(share * self._costs[workdir].flop for workdir, share in self._shares.items())

    def line(self) -> str:
        """Return a text such as ``sweep: 40% of the work, about 2h05m left``."""
        done, total = self._done(), sum(cost.flop for cost in self._costs.values())
        text = f"sweep: {100 * done / total:.0f}% of the work"
        # A resumed run may begin before the end of its log, so the pace can be negative at first.
        pace = (done - self._done_at_start) / (time.monotonic() - self._start)
        if done >= total:
            return text
        return text + (
            f", about {format_seconds((total - done) / pace)} left" if pace > 0 else ", time left: measuring"
        )


def _share_done(job: Job, cost: Cost) -> float:
    epochs = job.config.num_epochs
    done, whole = flop_until(job.config, IMAGE_SHAPE, epochs * np.array([job.steps_done() / cost.steps, 1.0]))
    return float(done / whole)


def describe(jobs: list[Job], workdir: pathlib.Path) -> str:
    """Format a table of the runs of a sweep and the estimated time left of each.

    Raises:
        UserError: unreadable data.
    """
    costs, paces = count_costs(jobs), _measured_paces(workdir)
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
            state = "refused"  # The run itself will report why.
        flop_left = (1 - share) * cost.flop
        seconds = None if flop_left else 0.0
        if pace := paces.get(_kind(job.config)):
            seconds = flop_left / pace
        rows.append((job.label, state, cost.steps, cost.flop, seconds))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'run':{width}}  {'state':>9}  {'steps':>9}  {'PFLOP':>7}  time left"]
    for label, state, steps, flop, seconds in rows:
        left = "not known" if seconds is None else format_seconds(seconds)
        lines.append(f"{label:{width}}  {state:>9}  {steps:9,}  {flop / 1e15:7.3g}  {left}")
    known = [row[4] for row in rows if row[4] is not None]
    left = f", about {format_seconds(sum(known))} left for {len(known)} of them" if known else ""
    lines.append(f"{len(jobs)} runs{left}")
    if len(known) < len(jobs):
        lines.append(f"A time needs a finished run of the same model and dtype in {workdir} on this device.")
    return "\n".join(lines)


def _kind(config: ConfigDict) -> str:
    """Return a key that is equal for runs that train at the same pace."""
    return json.dumps([config.model.to_dict(), config.dtype], sort_keys=True)


def _measured_paces(workdir: pathlib.Path) -> dict[str, float]:
    """Return the FLOP/s, evaluation included, of each kind of run that finished in ``workdir`` on this device."""
    flop: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for run in read_runs(workdir):
        if run.summary and run.summary["device"] == device_name():
            kind = _kind(run.config)
            images = run.summary["images_per_second"] * run.summary["train_seconds"]
            flop[kind] = flop.get(kind, 0.0) + images * flop_per_image(run.config, IMAGE_SHAPE)
            seconds[kind] = seconds.get(kind, 0.0) + run.summary["wall_seconds"]
    return {kind: flop[kind] / seconds[kind] for kind in flop}
