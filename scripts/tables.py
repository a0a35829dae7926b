"""Write the measured tables of docs/, and the verdicts in docs/paper.md, from the files in results/.

    python -m scripts.tables
    python -m scripts.tables --check

A table stands on its page between ``<!-- table: NAME -->`` and ``<!-- end -->``. With ``--check`` nothing is written,
and the exit status is 1 if a page differs from its figures.
"""

import argparse
import functools
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxresnet.report.page import list_claims
from jaxresnet.report.study import group_runs, judge, keep_compared, load_tables
from jaxresnet.workdir.runs import read_runs
from scripts.benchmark import format_report, markdown_table

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEASUREMENTS, RUNS = ROOT / "results" / "measurements", ROOT / "results" / "runs"

# Steps of 200 epochs of the final model, and their last batches and evaluations.
EPOCHS, FULL_STEPS, EVALUATIONS = 200, 390, 10

_MARKED = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def _read(name: str) -> Any:
    return json.loads((MEASUREMENTS / f"{name}.json").read_text(encoding="utf-8"))


def _contenders(name: str) -> str:
    """Return the table of the contenders in a report of ``scripts/benchmark.py``."""
    return format_report(_read(name)).partition("\n\n")[0]


def _round(value: float) -> str:
    """Return two significant digits."""
    return f"{float(f'{value:.2g}'):,g}"


def _compiled(name: str, seconds: str) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield the records of full training steps, with the minutes of 200 epochs by the field ``seconds``."""
    programs = {(p["target"], p["dtype"], p["name"], p["steps"]): p for p in _read(name)["programs"]}
    for target, dtype in dict.fromkeys(key[:2] for key in programs):
        step, last, evaluation = (
            programs[target, dtype, *key] for key in (("train", 130), ("train", 1), ("evaluate", 10))
        )
        epoch = FULL_STEPS * step[seconds] + last[seconds] + EVALUATIONS * evaluation[seconds]
        yield step, EPOCHS * epoch / 60


def bfloat16() -> str:
    """Return the step of ``configs/fast.py`` at its sizes of images, beside PyTorch's."""

    def rows() -> Iterator[Sequence[Any]]:
        for side in (32, 24, 16):
            report = _read(f"bfloat16-{side}")
            floor = report["flop_per_image"] * report["batch_size"] / report["matrix_product_flop_per_second"]
            ours, plain, tuned, compiled = report["contenders"].values()
            times = (statistics.median(each["wall_seconds"]) for each in (ours, tuned, compiled, plain))
            memory = (f"{each['peak_memory'] / 2**30:.1f}" for each in (ours, tuned))
            yield f"{side}x{side}", *(f"{each:.2f} s" for each in (*times, floor)), f"{' / '.join(memory)} GiB"

    header = (
        "images",
        "ours",
        "PyTorch",
        "PyTorch, compiled",
        "PyTorch, float32",
        "products alone",
        "memory, ours / its",
    )
    return markdown_table(header, rows())


def accelerators() -> str:
    """Return the costs of the final model's training step in bfloat16 on devices that it was compiled for."""
    return _device_table("compiled", "roofline_seconds", "roofline of a step")


def full_effort() -> str:
    """Return libtpu's own estimates of the training step."""
    return _device_table("full-effort", "estimate_seconds", "a step")


def _device_table(report: str, seconds: str, title: str) -> str:
    """Return a row for each compiled step in bfloat16, with the column ``title`` for the field ``seconds``."""
    return markdown_table(
        ("devices", "memory", "read and written in a step", title, "200 epochs"),
        (
            (
                step["target"],
                f"{step['peak_bytes'] / 1e6:,.0f} MB",
                f"{step['bytes'] / 1e9:.1f} GB",
                f"{1000 * step[seconds]:.1f} ms",
                f"{minutes:.1f} min",
            )
            for step, minutes in _compiled(report, seconds)
            if step["dtype"] == "bfloat16"
        ),
    )


def gradients() -> str:
    """Return the medians of the norms of gradients at initialisation, and of their ratios."""
    header = ("layers", "BatchNorm", "skips", "first block", "first / last", "range")

    def rows() -> Iterator[Sequence[Any]]:
        for record in _read("gradients"):
            first, last = record["first"], record["last"]
            ratios = [a / b for a, b in zip(first, last, strict=True) if b]
            yield (
                record["layers"],
                *("yes" if record[name] else "no" for name in ("norm", "skips")),
                _round(statistics.median(first)),
                _round(statistics.median(ratios)) if ratios else "none",
                f"{_round(min(ratios))} to {_round(max(ratios))}" if ratios else "",
            )

    return markdown_table(header, rows())


def skips() -> str:
    """Return the results of the runs of ``configs/skips.py``."""
    header = ("layers", "skips", "training loss", "training accuracy", "validation accuracy", "time on one core")

    def rows() -> Iterator[Sequence[Any]]:
        for arm in ("20", "20_plain", "56", "56_plain"):
            folder = RUNS / f"skips-{arm}"
            last = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
            seconds = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["wall_seconds"]
            layers, _, plain = arm.partition("_")
            accuracies = (f"{last[f'{split}_accuracy']:.2f}" for split in ("train", "validation"))
            yield layers, "no" if plain else "yes", f"{last['train_loss']:.3f}", *accuracies, f"{seconds / 60:.0f} min"

    return markdown_table(header, rows())


def finetune() -> str:
    """Return means and standard deviations over the seeds of ``scripts/finetune_study.py``."""
    sizes = _read("finetune")

    def rows() -> Iterator[Sequence[Any]]:
        for size, arms in sizes.items():
            yield size, *(f"{statistics.mean(each):.1f} ({statistics.stdev(each):.1f})" for each in arms.values())

    return markdown_table(("images of a class", *next(iter(sizes.values()))), rows())


@functools.cache
def claims() -> dict[str, str]:
    """Return the report's verdicts on the claims of each table, by the name of its config file."""
    tables = load_tables(ROOT / "configs")
    studies = group_runs(read_runs(ROOT / "results"), tables)
    tables = keep_compared(tables, studies)
    rows = judge(tables, studies)
    return {table.name: list_claims([row for row in rows if row.table is table]) for table in tables}


TABLES: dict[str, Callable[[], str]] = {
    "accelerators": accelerators,
    "full effort": full_effort,
    "cpu-final": lambda: _contenders("cpu-final"),
    "cpu-small": lambda: _contenders("cpu-small"),
    "bfloat16": bfloat16,
    "gradients": gradients,
    "skips": skips,
    "finetune": finetune,
}


def fill(text: str) -> str:
    """Return a page's text with every marked table, or list of claims, written again."""

    def write(match: re.Match[str]) -> str:
        kind, _, name = match[2].partition("claims ")
        content = TABLES[kind]() if kind else claims()[name]
        return f"{match[1]}{content}\n{match[3]}"

    return _MARKED.sub(write, text)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tables", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a page would change")
    arguments = parser.parse_args(argv)
    stale = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            stale.append(page.name)
            if not arguments.check:
                page.write_text(filled, encoding="utf-8")
    if arguments.check and stale:
        sys.exit(f"{', '.join(stale)}: a table differs from results/; run python -m scripts.tables")


if __name__ == "__main__":
    main()
