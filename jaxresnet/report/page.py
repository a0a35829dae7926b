"""The report as a folder: a page, its Markdown, figures, and each table to paste as Markdown, LaTeX and CSV."""

import itertools
import math
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from jaxresnet.report.figures import COLOURS, Mark, draw_curves, draw_forest, to_svg
from jaxresnet.report.statistics import Difference
from jaxresnet.report.study import MOST, VERDICTS, Row, Study, Table, choose_study
from jaxresnet.system.errors import UserError
from jaxresnet.system.files import write_whole

MARK = "<!-- written by jaxresnet.report -->"


class Section(NamedTuple):
    """Part of the report on one table."""

    table: Table
    study: Study  # the runs that it shows
    frame: pd.DataFrame  # a row an arm: words, paper, ours, n, difference, low, high and remark
    text: pd.DataFrame  # the same as text: an arm, the paper's accuracy if there is one, ours, the difference and n
    others: pd.DataFrame  # runs of other studies as text: arm, setting, n and mean accuracy
    caption: str  # what the numbers are


def make_section(table: Table, studies: list[Study]) -> Section:
    """Collect what is known of a table that has runs."""
    study = choose_study(table, studies)
    control = table.names[table.control]
    compared = [*dict.fromkeys(name for name in table.names.values() if len(study.fit.accuracies(name)))]
    compared = [name for name in compared if name != control]
    differences = dict(zip(compared, study.fit.many_to_one(compared, control), strict=True))
    rows, others = [], []
    for arm, name in table.names.items():
        accuracies, each = study.fit.accuracies(name), differences.get(name, Difference())
        remark = each.reason.replace("not run", f"{table.control} not run") if len(accuracies) else "not run"
        if study.has_diverged(name):
            remark = "some diverged" if len(accuracies) else "diverged"
        mean = accuracies.mean() if len(accuracies) else math.nan
        shown = (mean, len(accuracies), each.value, max(each.low, -MOST), min(each.high, MOST), remark)
        rows.append((arm, table.words[arm], table.paper[arm], *shown))
    for other, (arm, name) in itertools.product(studies, table.names.items()):
        accuracies = other.fit.accuracies(name)
        if other is not study and len(accuracies):
            others.append((arm, other.setting or "as configured", str(len(accuracies)), f"{accuracies.mean():.2f}"))
    columns = ["arm", "words", "paper", "ours", "n", "difference", "low", "high", "remark"]
    frame = pd.DataFrame(rows, columns=columns).set_index("arm")
    split = next(run.summary["evaluated_on"] for runs in study.runs.values() for run in runs if run.summary)
    caption = (
        f"Ours is the mean accuracy on the {split} images after the last epoch over n seeds, in %: "
        f"{study.setting or 'the configs as they are'}. "
        f"Differences are from {table.control}, with simultaneous 95% intervals."
    )
    further = pd.DataFrame(others, columns=["arm", "setting", "n", "accuracy"])
    return Section(table, study, frame, _format(table, frame), further, caption)


def _format(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    text = pd.DataFrame({"arm": frame.index}, index=frame.index)
    if frame["words"].any():
        text["description"] = frame["words"]
    if frame["paper"].notna().any():
        suffixes = {"best": " best", "cited": " cited"}
        kinds = [suffixes.get(table.configs[arm].paper.epoch, "") for arm in frame.index]
        text["paper"] = (frame["paper"].map("{:.2f}".format) + kinds).where(frame["paper"].notna(), "")
    text["ours"] = frame["ours"].map("{:.2f}".format).where(frame["ours"].notna(), "")
    text["difference [95% CI]"] = [
        remark or ("" if math.isnan(low) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
        for value, low, high, remark in frame[["difference", "low", "high", "remark"]].itertuples(index=False)
    ]
    text["n"] = frame["n"].astype(str)
    return text


def to_markdown(frame: pd.DataFrame) -> str:
    """Format a table of text in Markdown."""
    rules = ["---" if column in ("arm", "description") else "---:" for column in frame]
    lines = [[*frame], rules, *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def say_verdict(rows: Sequence[Row]) -> str:
    """Say what became of a claim's comparisons: "supported", or "2 of 3 supported, 1 inconclusive (...)"."""
    words: list[str] = []
    for verdict in VERDICTS:
        if not (reasons := [row.reason for row in rows if row.verdict == verdict]):
            continue
        why = ""
        if verdict == "inconclusive":
            ends = dict.fromkeys([min(reasons, key=float), max(reasons, key=float)])
            why = f" (detectable: {' to '.join(ends)})"
        elif verdict == "not judged":
            why = f" ({', '.join(sorted(set(reasons)))})"
        count = len(reasons)
        number = "" if count == len(rows) else f"{count} of {len(rows)} " if not words else f"{count} "
        words.append(f"{number}{verdict}{why}")
    return ", ".join(words)


def by_claim(rows: Sequence[Row]) -> list[list[Row]]:
    """Group comparisons by claim, in order."""
    return [[*group] for _, group in itertools.groupby(rows, lambda row: id(row.claim))]


def list_claims(rows: Sequence[Row]) -> str:
    """List claims with their quotes, verdicts and differences, as an item each."""
    items = []
    for group in by_claim(rows):
        claim = group[0].claim
        quote = f' "{claim.quote}"' if claim.quote else ""
        items.append(f"- **{claim.text}**: {say_verdict(group)}.{quote}")
    return "\n".join(items)


def _draw_claims(rows: Sequence[Row]) -> Figure:
    marks = []
    for group in by_claim([row for row in rows if row.verdict != "not judged"]):
        marks.append(Mark(group[0].claim.text))
        for row in group:
            label = f"{row.first} {'minus' if row.claim.equal else 'over'} {row.second}"
            marks.append(Mark(label, row.difference, row.paper, row.verdict))
    return draw_forest(marks, "difference in points, with its 95% CI")


def _draw_table(section: Section) -> Figure:
    control = section.table.control
    marks = []
    for arm, row in section.frame.dropna(subset="difference").iterrows():
        verdict = "differs" if row["low"] > 0 or row["high"] < 0 else "no difference found"
        paper = row["paper"] - section.frame["paper"][control]
        marks.append(Mark(str(arm), Difference(row["difference"], low=row["low"], high=row["high"]), paper, verdict))
    return draw_forest(marks, f"points above {control}")


def write(sections: list[Section], rows: list[Row], doubts: list[str], out: pathlib.Path) -> None:
    """Write README.md, index.html, figures/ and tables/ to ``out``. Only an older report is overwritten."""
    quoted = [row for row in rows if row.claim.quote]
    own = [row for row in rows if not row.claim.quote]
    parts = [("The paper's claims", "claims", quoted), ("Follow-ups" if quoted else "Claims", "follow-ups", own)]
    figures = {name: _draw_claims(part) for _, name, part in parts if any(row.verdict != "not judged" for row in part)}
    for section in sections:
        if section.frame["difference"].notna().any():
            figures[section.table.name] = _draw_table(section)
    title = "The paper's claims, and what the runs say" if quoted else "The tables, and what the runs say"
    counts = [f"{count} {verdict}" for verdict in VERDICTS if (count := sum(row.verdict == verdict for row in rows))]

    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, autoescape=jinja2.select_autoescape(["html"]), trim_blocks=True)
    helpers = (by_claim, draw_curves, list_claims, render_markdown, say_verdict, to_markdown, to_svg)
    templates.globals |= {helper.__name__: helper for helper in helpers}
    studies = {section.study.setting: section.study for section in sections}
    content = {
        "mark": Markup(MARK),
        "title": sections[0].table.title if len(sections) == 1 else title,
        "rows": rows,
        "counts": counts,
        "num_runs": sum(len(study.fit.runs) for study in studies.values()),
        "settings": [setting or "the configs as they are" for setting in studies],
        "parts": [part for part in parts if part[2]],
        "doubts": doubts,
        "sections": sections,
        "figures": figures,
        "colours": COLOURS,
    }
    content["introduction"] = templates.get_template("introduction.md").render(content)
    texts = {name: templates.get_template(name).render(content) for name in ("page.md", "page.html")}
    check_out(out)
    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for old in (out / folder).iterdir():
            old.unlink()
    for name, figure in figures.items():
        write_whole(out / "figures" / f"{name}.svg", to_svg(figure))
    for section in sections:
        _write_table(section, out / "tables" / section.table.name)
    write_whole(out / "README.md", texts["page.md"].rstrip() + "\n")
    write_whole(out / "index.html", texts["page.html"])


def _write_table(section: Section, path: pathlib.Path) -> None:
    """Write a table to paste into a page, an article or a spreadsheet."""
    write_whole(path.with_suffix(".md"), to_markdown(section.text) + "\n")
    write_whole(path.with_suffix(".csv"), section.frame.round(4).dropna(axis="columns", how="all").to_csv())
    style = section.text.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    columns = "".join("l" if column in ("arm", "description") else "r" for column in section.text)
    caption = re.sub(r"([%_&#])", r"\\\1", f"{section.table.title}. {section.caption}")
    write_whole(path.with_suffix(".tex"), style.to_latex(hrules=True, column_format=columns, caption=caption))


def render_markdown(text: str) -> Markup:
    """Return Markdown as HTML, in which HTML of its own is text."""
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))


def check_out(out: pathlib.Path) -> None:
    """Check that ``out`` can become a report: a new or empty folder, or an older report.

    Raises:
        UserError: ``out`` is a file, or holds other files.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; give a folder")
    page = out / "README.md"
    is_report = page.is_file() and page.read_text(encoding="utf-8", errors="replace").startswith(MARK)
    if out.exists() and not is_report and any(out.iterdir()):
        raise UserError(f"--out={out} holds other files and no report; give an empty or a new folder")
