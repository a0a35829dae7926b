"""Redraw the paper's tables from finished runs: ``python -m jaxresnet.report --workdir=runs --out=report``.

All measurements come from the run directories. The paper's figures and the list of arms come from the config files.
"""

import argparse
import pathlib
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxresnet import cli
from jaxresnet.config import CONFIGS, load_experiment
from jaxresnet.core.state import create_model
from jaxresnet.data.cifar import CIFAR10, IMAGE_SHAPE
from jaxresnet.report import figures
from jaxresnet.report.figures import Bar
from jaxresnet.report.findings import HOW_TO_READ, add_findings
from jaxresnet.report.page import Page, anchor, check_out, table
from jaxresnet.report.spread import Stat
from jaxresnet.report.tables import Table, add_table, create_table, format_changes, read_study
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.terminal import format_seconds
from jaxresnet.workdir.runs import Run, read_runs

DESCRIPTION = """
Redraw the paper's tables from the finished runs in a folder: a page with a table, notes and figures for each. All
measurements come from the runs. The paper's figures and the arms come from the config files.
"""
TITLE = "The paper's experiments, run again"
FINAL = "final"
EXPLANATIONS = """
- **Paper** is the test accuracy of the last epoch of one run, in %, unless it says "best" or "cited".
- **Ours, at full length** is the mean ± the sample standard deviation over **n** seeds: of the last epoch, and of the
  best one, chosen on the test set. The difference is ours minus the paper's. It is **outside** if the paper's figure
  lies outside of the 95% prediction interval for one more run, mean ± t s √(1 + 1/n). One seed has no spread to judge
  by.
- **Small study** is the last epoch's accuracy on 45,000 training images that are held out (`configs/small.py`). All
  runs train on the same 5,000 images, so no interval has the choice of images in it.
- A difference of two of our arms is **outside** if 0 lies outside of its 95% confidence interval, from Student's t. The
  spread over seeds is pooled over all arms of the study, or of a table that is no part of it. An arm whose spread is an
  outlier, by Cochran's test, counts with its own. Bars show differences with their intervals, and diamonds the paper's.
- Runs that were shortened or changed otherwise have tables of their own and are never compared with the paper.
""".strip()
STUDY = "small.py"  # config file with every arm of every table at a small size


def write_report(workdir: pathlib.Path, out: pathlib.Path, configs: pathlib.Path) -> None:
    """Write README.md, index.html and figures/ to ``out``.

    Args:
        workdir: folder of the runs, at any depth.
        out: new or empty folder, or an older report to replace.
        configs: folder with one config file per table.

    Raises:
        UserError: missing ``workdir``, no runs, no tables, or an ``out`` that cannot be written.
    """
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: there is no such folder; give the folder of the runs")
    check_out(out)  # First, because reading and drawing take long.
    experiments = [load_experiment(path) for path in sorted(configs.glob("*.py")) if path.name != "arms.py"]
    experiments = sorted((e for e in experiments if e.title), key=lambda experiment: experiment.title)
    if not experiments:
        raise UserError(f"--configs={configs}: there are no tables in it; run from the folder that holds configs/")
    runs = read_runs(workdir)
    if not runs:
        raise UserError(f"--workdir={workdir}: there is no run in it; give the folder of the runs")
    study = load_experiment(configs / STUDY) if (configs / STUDY).is_file() else None
    small = read_study(runs, study)
    tables = [create_table(experiment, runs, small) for experiment in experiments]

    page = Page(TITLE)
    _add_introduction(page, tables, runs)
    add_findings(page, tables)
    headings = [*(each.experiment.title for each in tables), "The final model", "The best run", "The runs"]
    page.add("## Contents")
    page.add("\n".join(f"- [{heading}](#{anchor(heading)})" for heading in headings))
    page.add(f"## {HOW_TO_READ}")
    page.add(EXPLANATIONS)
    for each in tqdm(tables, "drawing the tables", leave=False, disable=None):
        add_table(page, each)
    _add_final_model(page, tables)
    _add_best_run(page, runs, workdir)
    _add_runs(page, runs, workdir)
    page.write(out)


def _add_introduction(page: Page, tables: list[Table], runs: list[Run]) -> None:
    names = {
        config.name
        for each in tables
        for config in map(each.experiment.get_config, each.experiment.arms)
        if config.paper.accuracy is not None and config.paper.epoch != "cited"
    }
    full = {g.name for each in tables for groups in each.groups.values() for g in groups if g.is_full and g.runs}
    small = {group.name for each in tables for group in each.small.values()}
    finished = [run for run in runs if run.summary]
    page.add(
        f"The tables of *An Implementation of the ResNet Architecture in Pytorch* (Chang and Shong), redrawn from "
        f"{len(finished)} finished runs of this project. Of the {len(names)} experiments in them, {len(full & names)} "
        f"have been run here at full length, and {len(small & names)} in the small study (`configs/small.py`)."
    )


def _add_final_model(page: Page, tables: list[Table]) -> None:
    page.add("## The final model")
    each = next((each for each in tables if FINAL in each.groups), None)
    if each is None:
        page.add("None of the config files has it.")
        return
    model = create_model(each.experiment.get_config(FINAL))
    page.add("Its architecture, drawn from the model itself (the paper's Figure 1):")
    page.add_figure("architecture", figures.draw_architecture(model, IMAGE_SHAPE), "the layers of the final model")
    group = next((group for group in each.groups[FINAL] if any(run.confusion for run in group.runs)), None)
    if group is None:
        page.add("No run of it has finished yet, so there is no confusion matrix.")
        return
    confusions = [run.confusion for run in group.runs if run.confusion]
    names, matrices = confusions[0][0], np.array([matrix for _, matrix in confusions])
    changes = format_changes(group.changes)
    page.add(
        f"Its predictions by true class, on the {group.split} images after the last epoch, over {len(matrices)} "
        f"run{'s' if len(matrices) > 1 else ''}" + (f" with {changes}" if changes else "") + ". Each row sums to 100%."
    )
    page.add_figure("confusion", figures.draw_confusion(names, matrices.sum(0)), "confusion matrix")
    recalls = 100 * np.diagonal(matrices, axis1=1, axis2=2) / matrices.sum(2)
    page.add("The mistakes in each class, with the sample standard deviation over seeds:")
    mistakes = [(name, Stat.of(100 - column)) for name, column in zip(names, recalls.T, strict=True)]
    bars = [Bar(name, stat.mean, stat.sd) for name, stat in mistakes]
    page.add_figure("classes", figures.draw_bars(bars, "mistakes, % of the class, last epoch"), "mistakes by class")


def _add_best_run(page: Page, runs: list[Run], workdir: pathlib.Path) -> None:
    """Add the CIFAR-10 run with the highest test accuracy after its last epoch, whatever its config."""
    page.add("## The best run")
    expected = CIFAR10.fingerprint
    finished = [
        run
        for run in runs
        if run.summary
        and run.summary["evaluated_on"] == "test"
        and run.config.dataset.name == "cifar10"
        and run.summary.get("data_fingerprint", expected) == expected
    ]
    if not finished:
        page.add("No run on CIFAR-10 has finished yet.")
        return

    def accuracy(run: Run) -> float:
        assert run.summary is not None
        return float(run.summary["last"]["accuracy"])

    best = max(finished, key=accuracy)
    assert best.summary is not None
    config, summary = best.config, best.summary
    page.add(
        f"Of all {len(finished)} finished runs on CIFAR-10, `{best.path.relative_to(workdir)}` has the highest test "
        f"accuracy after its last epoch: **{accuracy(best):.2f}%** ({config.name}, seed {config.seed}, "
        f"{config.num_epochs} epochs, {format_seconds(summary['wall_seconds'])}, {_devices(summary)})."
    )
    if best.confusion:
        names, matrix = best.confusion
        page.add("Its predictions by true class, after the last epoch. Each row sums to 100%.")
        page.add_figure(
            "best-confusion", figures.draw_confusion(names, np.array(matrix)), "confusion matrix of the best run"
        )


def _add_runs(page: Page, runs: list[Run], workdir: pathlib.Path) -> None:
    page.add("## The runs")
    page.add("Accuracies are of the test set, or of the validation split: training images that were held out.")
    header = ["run", "seed", "epochs", "last", "best (epoch)", "of", "time", "images/s", "device", "jax"]
    rows = []
    for run in runs:
        epochs = f"{run.epochs_done} of {run.config.num_epochs}"
        row = [f"`{run.path.relative_to(workdir)}`", str(run.config.seed), epochs]
        if run.summary:
            summary = run.summary
            row += [
                f"{summary['last']['accuracy']:.2f}",
                f"{summary['best']['accuracy']:.2f} ({summary['best']['epoch']:g})",
                str(summary["evaluated_on"]),
                format_seconds(summary["wall_seconds"]),
                f"{summary['images_per_second']:,.0f}",
                _devices(summary),
                summary["versions"]["jax"],
            ]
        rows.append(row + [""] * (len(header) - len(row)))
    page.add(table(header, rows))
    failures = [f"- `{run.path.relative_to(workdir)}` diverged: {run.failure}" for run in runs if run.failure]
    if failures:
        page.add("\n".join(failures))
    fingerprints = {crc for run in runs if run.summary and (crc := run.summary.get("data_fingerprint"))}
    if len(fingerprints) > 1:
        page.add(
            f"**Not all of these runs read the same images in the same order**: their data have the checksums "
            f"{', '.join(sorted(fingerprints))}."
        )


def _devices(summary: dict[str, Any]) -> str:
    device, count = summary["device"], summary["device_count"]
    if summary["platform"] != "cpu":
        return f"{count} x {device}"
    return device if count == 1 else f"{device}, {count} devices"  # The devices are cores of one processor.


def redraw(arguments: argparse.Namespace) -> None:
    """Redraw the tables as the flags say."""
    out = user_path(arguments.out)
    write_report(user_path(arguments.workdir), out, user_path(arguments.configs))
    print(f"{out}/README.md, {out}/index.html")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("report", DESCRIPTION)
    parser.add_argument("--workdir", required=True, help="folder of the runs, at any depth")
    parser.add_argument("--out", required=True, help="folder to write README.md, index.html and figures/ to")
    parser.add_argument("--configs", default=str(CONFIGS), help="folder of the config files (default: this project's)")
    cli.run(redraw, parser, argv)


if __name__ == "__main__":
    main()
