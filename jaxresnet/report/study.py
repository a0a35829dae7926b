"""Tables, the runs of their arms, and verdicts on their claims."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from jaxresnet.config import Experiment, changed_fields, flatten, load_experiment
from jaxresnet.data.cifar import NUM_TRAIN
from jaxresnet.report.statistics import LEVEL, Difference, Fit, correct, detectable
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.runs import Run

MARGIN, MOST = 1.0, 100.0  # points by which arms may differ and still score the same, and can differ at all
VERDICTS = ("supported", "contradicted", "inconclusive", "not testable", "not judged")


class Table:
    """A config file with a title, arms and claims, which have ``text`` and ``pairs`` as in ``configs/tables.py``."""

    def __init__(self, experiment: Experiment):
        """Read a table from its config file.

        Raises:
            UserError: a claim names an arm that the file does not have.
        """
        self.name, self.title = experiment.path.stem, experiment.title
        self.configs = {arm: experiment.get_config(arm) for arm in experiment.arms}
        self.names: dict[str, str] = {arm: config.name for arm, config in self.configs.items()}
        # The accuracy that the paper reports, or NaN.
        self.paper = {arm: float(np.float64(config.paper.accuracy)) for arm, config in self.configs.items()}
        self.claims: Sequence[Any] = experiment.contents.get("CLAIMS", ())
        self.note = str(experiment.contents.get("NOTE", "")).strip()  # Markdown
        arms = experiment.contents["ARMS"]
        self.words = {arm: str(getattr(arms[arm], "words", "")) if isinstance(arms, dict) else "" for arm in arms}
        for claim in self.claims:
            if unknown := {arm for pair in claim.pairs for arm in pair} - self.configs.keys():
                raise UserError(f"{experiment.path}: CLAIMS name {unknown.pop()!r}, which ARMS does not have")
        # The others are compared with the arm that get_config returns without an argument.
        try:
            control = experiment.get_config("").name
        except UserError:  # a get_config that needs an arm
            control = None
        self.control = next((arm for arm, name in self.names.items() if name == control), experiment.arms[0])


def load_tables(path: pathlib.Path) -> list[Table]:
    """Load a table, or all tables in a folder, sorted by title.

    Raises:
        UserError: there is no table.
    """
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    titled = [file for file in files if file == path or "\nTITLE = " in file.read_text(encoding="utf-8")]
    tables = [Table(each) for each in map(load_experiment, titled) if each.title and "ARMS" in each.contents]
    if not tables:
        raise UserError(f"--configs={path}: there is no table in it, which is a config file with TITLE and ARMS")
    return sorted(tables, key=lambda table: table.title)


class Study(NamedTuple):
    """Runs that differ in the same way from the configs of their arms."""

    setting: str  # these differences in words; empty if there are none
    is_smaller: bool  # True if the networks are smaller than the arms'
    runs: dict[str, list[Run]]  # by name of the experiment
    fit: Fit  # model of the accuracies after the last epoch, with the names of experiments as arms

    def has_diverged(self, name: str) -> bool:
        """Return True if a run of an experiment diverged."""
        return any(run.failure for run in self.runs.get(name, ()))


def group_runs(runs: list[Run], tables: list[Table]) -> list[Study]:
    """Group runs by how they differ from the configs of their arms. The studies with the most arms come first."""
    configs = {config.name: config for table in tables for config in table.configs.values()}
    groups: dict[str, dict[str, dict[int, Run]]] = {}
    settings: dict[str, str] = {}
    smaller = set()
    for run in runs:
        if own := configs.get(run.config.get("name")):
            key = repr(run.config.to_dict() | {"seed": 0})  # Seeds share their setting, and there may be thousands.
            if key not in settings:
                settings[key] = describe_setting(run.config, own)
            setting = settings[key]
            group = groups.setdefault(setting, {}).setdefault(own.name, {})
            group.setdefault(run.config.seed, run)  # A run that is kept twice counts once.
            if sum(run.config.model.channels) < sum(own.model.channels):
                smaller.add(setting)
    studies = []
    for setting, seeds in groups.items():
        rows = [
            (name, seed, float(run.summary["last"]["accuracy"]))
            for name, group in seeds.items()
            for seed, run in group.items()
            if run.summary
        ]
        fit = Fit(pd.DataFrame(rows, columns=["arm", "seed", "accuracy"]))
        studies.append(Study(setting, setting in smaller, {name: [*seeds[name].values()] for name in seeds}, fit))
    return sorted(studies, key=lambda study: (-study.fit.runs["arm"].nunique(), study.setting))


def describe_setting(config: ConfigDict, own: ConfigDict) -> str:
    """Return in words how a run's config differs from its arm's. Lengths and widths are relative to the arm's."""
    changed = changed_fields(config, own)
    passed = {"seed", "eval_every_epochs"}
    if "model.channels" in changed:  # which depth and stem follow
        passed |= {"model.blocks", "model.stem_channels"}
    changed = {field: value for field, value in changed.items() if field not in passed}
    words = []
    if "dataset.validation_size" in changed and config.dataset.name in ("cifar10", "cifar100"):
        words.append(f"{NUM_TRAIN - changed.pop('dataset.validation_size'):,} training images")
    for field, name in (("num_epochs", "epochs"), ("model.channels", "channels")):
        if field in changed:
            share = np.sum(changed.pop(field)) / np.sum(flatten(own.to_dict())[field])
            words.append(f"{100 * share:.3g}% of the {name}")
    return ", ".join([*words, *(f"{field}={value}" for field, value in changed.items())])


class Row(NamedTuple):
    """Comparison of two arms for a claim."""

    table: Table
    claim: Any
    first: str  # arm that should score higher, or the same
    second: str
    difference: Difference  # ours
    paper: float  # the paper's difference, or NaN
    verdict: str  # one of ``VERDICTS``
    reason: str  # why it is not testable or not judged; or what an inconclusive comparison could have found
    runs: frozenset[str]  # setting and names of the runs; comparisons of the same runs are corrected for once


def choose_study(table: Table, studies: list[Study]) -> Study:
    """Return the study with finished runs of the most arms of a table."""
    return max(studies, key=lambda study: len({*table.names.values()} & {*study.fit.runs["arm"]}))


def keep_compared(tables: list[Table], studies: list[Study]) -> list[Table]:
    """Return the tables with runs of more than the control, which other tables share, or else the first with any."""
    run = {name for study in studies for name in study.fit.runs["arm"]}
    finished = [table for table in tables if run & {*table.names.values()}]
    compared = [table for table in finished if run & {*table.names.values()} - {table.names[table.control]}]
    return compared or finished[:1]


def judge(tables: list[Table], studies: list[Study]) -> list[Row]:
    """Judge all claims of tables that have runs, with Holm's correction over all different pairs of arms."""
    rows = []
    for table in tables:
        study = choose_study(table, studies)
        rows += [_compare(table, claim, pair, study) for claim in table.claims for pair in claim.pairs]
    p_values = {row.runs: row.difference.p for row in rows if not row.verdict}
    corrected = dict(zip(p_values, correct([*p_values.values()]), strict=True))
    # The level at which Holm's correction stopped, and so the one that a further difference would have had to pass.
    level = LEVEL / max(1, sum(p >= LEVEL for p in corrected.values()))
    return [row if row.verdict else _decide(row, corrected[row.runs], level) for row in rows]


def _compare(table: Table, claim: Any, pair: tuple[str, str], study: Study) -> Row:
    names = table.names[pair[0]], table.names[pair[1]]
    difference = study.fit.difference(*names)
    verdict, reason = "", difference.reason
    if reason:
        verdict = "not judged"
        reason = "diverged" if reason == "not run" and any(map(study.has_diverged, names)) else reason
    elif study.is_smaller and claim.not_testable:
        verdict, reason = "not testable", claim.not_testable
    paper = table.paper[pair[0]] - table.paper[pair[1]]
    return Row(table, claim, *pair, difference, paper, verdict, reason, frozenset([study.setting, *names]))


def _decide(row: Row, p: float, level: float) -> Row:
    each = row.difference
    if p < LEVEL:
        return row._replace(verdict="supported" if each.value > 0 and not row.claim.equal else "contradicted")
    if row.claim.equal and each.low >= -MARGIN and each.high <= MARGIN:
        return row._replace(verdict="supported")
    if (size := detectable(each, level)) > MOST:
        return row._replace(verdict="not judged", reason="seeds differ too much")
    return row._replace(verdict="inconclusive", reason=f"{size:.1f}")


def list_doubts(studies: list[Study]) -> Iterator[str]:
    """Yield a sentence for each property of the runs that a reader should know before trusting a comparison."""
    for study in studies:
        finished = [run.summary for each in study.runs.values() for run in each if run.summary]
        where = f" ({study.setting})" if study.setting else ""
        for key, what in (("git_commit", "versions of the code"), ("data_fingerprint", "orders or sets of images")):
            values = {str(summary[key])[:8] for summary in finished if summary.get(key)}
            if len(values) > 1:
                yield f"{len(finished)} compared runs{where} are of {len(values)} {what}: {', '.join(sorted(values))}."
        if study.fit.unsteady:
            arms = ", ".join(f"`{arm}`" for arm in sorted(study.fit.unsteady))
            yield f"The seeds of {arms}{where} differ much more than others', so these arms have wide intervals."
    runs = [run for study in studies for each in study.runs.values() for run in each]
    if failed := [f"`{run.config.name}` with seed {run.config.seed}" for run in runs if run.failure]:
        yield f"{len(failed)} runs diverged and count nowhere: {', '.join(failed)}."
    if unfinished := sum(run.summary is None and not run.failure for run in runs):
        yield f"{unfinished} runs have not finished and count nowhere."
