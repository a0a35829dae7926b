"""Planned runs of a sweep: their arms, seeds and run directories, and which of them have finished."""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxresnet.cli.config_files import Experiment, load_experiment
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.config import changed_fields, check_config, check_same_training, forget_paper
from jaxresnet.workdir.folder import read_summary
from jaxresnet.workdir.log import read_metrics


class Job(NamedTuple):
    """One run of a sweep.

    Attributes:
        label: arm and seed, for display.
        config: config with seed and overrides applied.
        workdir: run directory.
        arguments: arguments of ``jaxresnet.main`` for this run.
    """

    label: str
    config: ConfigDict
    workdir: pathlib.Path
    arguments: tuple[str, ...]

    def is_finished(self) -> bool:
        """Return True if the run is there and complete.

        Raises:
            UserError: the run directory holds a finished run with another config, or damaged files.
        """
        if read_summary(self.workdir) is None:
            return False
        check_same_training(self.config, self.workdir)
        return True

    def steps_done(self) -> int:
        """Return the last step in the run's log, or 0 if none can be read."""
        try:
            lines = read_metrics(self.workdir)
        except UserError:
            return 0
        return lines[-1]["step"] if lines else 0


def plan_jobs(
    experiment: Experiment, arms: list[str] | None, seeds: int, overrides: dict[str, object], workdir: pathlib.Path
) -> list[Job]:
    """Plan a sweep: all arms with one seed, then all with the next, so that a table fills evenly.

    Arms that are the same experiment are run once.

    Args:
        experiment: table to run.
        arms: names of arms, with ``"paper"`` for those with a figure in the paper, or None for all.
        seeds: number of seeds, counted from the config's ``seed``.
        overrides: fields to set in every config, by dotted name.
        workdir: folder of all runs.

    Raises:
        UserError: unknown arm, no arm at all, invalid config, or two arms for one folder.
    """
    jobs: dict[pathlib.Path, Job] = {}
    for seed in range(seeds):
        for arm in _chosen(experiment, arms):
            config = experiment.get_config(arm)
            command = _config_argument(experiment, arm, config)
            config.update_from_flattened_dict(overrides)
            forget_paper(config, overrides)
            config.seed += seed
            check_config(config)
            folder = workdir / config.name / f"seed{config.seed}"
            arguments = (
                f"--config={command}",
                *(f"--config.{field}={value}" for field, value in overrides.items() if field != "seed"),
                f"--config.seed={config.seed}",
                f"--workdir={folder}",
            )
            job = Job(f"{arm or config.name}, seed {config.seed}", config, folder, arguments)
            other = jobs.setdefault(folder, job)
            if changed_fields(config, other.config):
                raise UserError(f"{other.label} and {job.label} would both run in {folder}; give each arm its own name")
    return list(jobs.values())


def _config_argument(experiment: Experiment, arm: str, config: ConfigDict) -> str:
    """Return the value for ``--config``: the experiment's own file if it has one, so that tables share the command."""
    own = experiment.path.parent / f"{config.name}.py"
    if own.is_file() and not changed_fields(load_experiment(own).get_config(""), config):
        return str(own)
    return f"{experiment.path}:{arm}" if arm else str(experiment.path)


def _chosen(experiment: Experiment, arms: list[str] | None) -> list[str]:
    if arms is None:
        return list(experiment.arms)
    unknown = [arm for arm in arms if arm != "paper" and arm not in experiment.arms]
    known = ", ".join(experiment.arms) if experiment.arms != ("",) else "none: the file has no arms"
    if unknown:
        raise UserError(f"--arms={','.join(arms)}: there is no arm {unknown[0]!r} in {experiment.path}; it has {known}")
    in_paper = [arm for arm in experiment.arms if experiment.get_config(arm).paper.accuracy is not None]
    chosen = [arm for arm in experiment.arms if arm in arms or ("paper" in arms and arm in in_paper)]
    if not chosen:
        raise UserError(f"--arms={','.join(arms)} names no arm of {experiment.path}; it has {known}")
    return chosen
