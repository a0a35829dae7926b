"""The report as a folder: a page, its Markdown, figures, and each table to paste as Markdown, LaTeX and CSV."""

import itertools
import math
import pathlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from jaxresnet.report import figures
from jaxresnet.report.figures import Mark
from jaxresnet.report.study import VERDICTS, Row, Study, Table, choose_study
from jaxresnet.system.errors import UserError
from jaxresnet.system.files import write_whole

MARK = "<!-- written by jaxresnet.report -->"


class Section(NamedTuple):
    """Part of the report on one table.

    Attributes:
        table: the table.
        study: the runs that it shows.
        frame: a row an arm: ``words``, ``paper``, ``ours``, ``n``, ``difference``, ``low``, ``high`` and ``remark``.
        others: runs of other studies: arm, setting, n and mean accuracy, as text.
        split: images of the accuracies: "test" or "validation".
    """

    table: Table
    study: Study
    frame: pd.DataFrame
    others: list[list[str]]
    split: str


def make_section(table: Table, studies: list[Study]) -> Section:
    """Collect what is known of a table that has runs."""
    study = choose_study(table, studies)
    assert study is not None
    names = {arm: config.name for arm, config in table.configs.items()}
    control = names[table.control]
    compared = [*dict.fromkeys(name for name in names.values() if name != control and len(study.accuracies(name)))]
    differences = dict(zip(compared, study.fit.many_to_one(compared, control), strict=True))
    rows = []
    for arm, name in names.items():
        accuracies, each = study.accuracies(name), differences.get(name)
        remark = "" if len(accuracies) else "not run"
        if any(run.failure for run in study.runs.get(name, ())):
            remark = "diverged" if not len(accuracies) else "some diverged"
        elif each and each.reason:
            remark = each.reason
        mean = accuracies.mean() if len(accuracies) else math.nan
        value, low, high = (each.value, each.low, each.high) if each else (math.nan,) * 3
        rows.append((arm, table.words[arm], table.paper(arm), mean, len(accuracies), value, low, high, remark))
    columns = ["arm", "words", "paper", "ours", "n", "difference", "low", "high", "remark"]
    others = [
        [
            arm,
            other.setting or "as configured",
            str(len(other.accuracies(name))),
            f"{other.accuracies(name).mean():.2f}",
        ]
        for other in studies
        if other is not study
        for arm, name in names.items()
        if len(other.accuracies(name))
    ]
    split = next(run.summary["evaluated_on"] for runs in study.runs.values() for run in runs if run.summary)
    return Section(table, study, pd.DataFrame(rows, columns=columns).set_index("arm"), others, split)


def format_table(section: Section) -> pd.DataFrame:
    """Return the table as text: an arm, the paper's accuracy if there is one, ours, the difference and n."""
    frame = section.frame
    text = pd.DataFrame({"arm": frame.index}, index=frame.index)
    if frame["words"].any():
        text["description"] = frame["words"]
    if frame["paper"].notna().any():
        text["paper"] = [
            _number(value) + {"best": " best", "cited": " cited"}.get(section.table.configs[arm].paper.epoch, "")
            if math.isfinite(value)
            else ""
            for arm, value in frame["paper"].items()
        ]
    text["ours"] = frame["ours"].map(_number)
    text["difference [95% CI]"] = [
        remark or ("" if math.isnan(low) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
        for value, low, high, remark in frame[["difference", "low", "high", "remark"]].itertuples(index=False)
    ]
    text["n"] = frame["n"].astype(str)
    return text


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def to_markdown(frame: pd.DataFrame, text_columns: Sequence[str] = ("arm", "description")) -> str:
    """Format a table of text in Markdown."""
    lines = [[*frame], ["---" if column in text_columns else "---:" for column in frame], *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def say_verdict(rows: Sequence[Row]) -> str:
    """Say what became of a claim's comparisons: "supported", or "2 of 3 supported, 1 inconclusive (...)"."""
    counts = Counter(row.verdict for row in rows)
    words: list[str] = []
    for verdict in VERDICTS:
        if not (count := counts[verdict]):
            continue
        which = [row for row in rows if row.verdict == verdict]
        reason = ""
        if verdict == "inconclusive":
            found = [float(row.reason) for row in which]
            reason = f" (detectable: {_range(found)})"
        elif verdict == "not judged":
            reason = f" ({', '.join(sorted({row.reason for row in which}))})"
        number = "" if count == len(rows) else f"{count} of {len(rows)} " if not words else f"{count} "
        words.append(f"{number}{verdict}{reason}")
    return ", ".join(words)


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"


def by_claim(rows: Sequence[Row]) -> list[tuple[Any, list[Row]]]:
    """Group comparisons by claim, in order."""
    return [
        (group[0].claim, group) for _, each in itertools.groupby(rows, lambda r: id(r.claim)) for group in [[*each]]
    ]


def list_claims(rows: Sequence[Row]) -> str:
    """List claims with their quotes, verdicts and differences, as an item each."""
    items = []
    for claim, group in by_claim(rows):
        quote = f' "{claim.quote}"' if claim.quote else ""
        items.append(f"- **{claim.text}**: {say_verdict(group)}.{quote}")
    return "\n".join(items)


def _forest(rows: Sequence[Row]) -> Figure:
    marks = []
    for claim, group in by_claim(rows):
        drawn = [row for row in group if row.verdict != "not judged"]
        marks += [Mark(claim.text)] if drawn else []
        for row in drawn:
            word = "minus" if claim.equal else "over"
            each = row.difference
            marks.append(
                Mark(f"{row.first} {word} {row.second}", each.value, each.low, each.high, row.paper, row.verdict)
            )
    return figures.draw_forest(marks, "difference in points, with its 95% CI", "the paper's difference")


def _table_figure(section: Section) -> Figure | None:
    frame = section.frame[section.frame["difference"].notna()]
    if frame.empty:
        return None
    paper = frame["paper"] - section.frame["paper"][section.table.control]
    marks = [
        Mark(str(arm), value, low, high, paper[arm], "no difference found" if not (low > 0 or high < 0) else "differs")
        for arm, value, low, high in frame[["difference", "low", "high"]].itertuples()
    ]
    return figures.draw_forest(marks, f"points above {section.table.control}", "the paper's difference")


def write(
    sections: Sequence[Section], rows: Sequence[Row], doubts: Sequence[str], introduction: str, out: pathlib.Path
) -> None:
    """Write README.md, index.html, figures/ and tables/ to ``out``. Only an older report is overwritten.

    Raises:
        UserError: ``out`` cannot be written.
    """
    quoted = [row for row in rows if row.claim.quote]
    own = [row for row in rows if not row.claim.quote]
    parts = [("The paper's claims", "claims", quoted), ("Follow-ups" if quoted else "Claims", "follow-ups", own)]
    drawn = {name: _forest(part) for _, name, part in parts if any(row.verdict != "not judged" for row in part)}
    small = {section.table.name: figure for section in sections if (figure := _table_figure(section))}
    tables = {section.table.name: format_table(section) for section in sections}
    title = "The paper's claims, and what the runs say" if quoted else "The tables, and what the runs say"
    title = sections[0].table.title if len(sections) == 1 else title

    text = [f"{MARK}\n# {title}", introduction]
    for heading, name, part in parts:
        if part:
            text.append(f"## {heading}")
            text += [f"![{heading.lower()}: differences and their intervals](figures/{name}.svg)"] * (name in drawn)
            text.append(list_claims(part))
    text += ["## What could not be judged", "\n".join(f"- {doubt}" for doubt in doubts)] if doubts else []
    for section in sections:
        name = section.table.name
        text += [f"## {section.table.title}", to_markdown(tables[name]), _caption(section)]
        text += [f"![differences of the arms](figures/{name}.svg)"] * (name in small)
        text += [section.table.note] * bool(section.table.note)
        others = pd.DataFrame(section.others, columns=["arm", "setting", "n", "accuracy"])
        text += ["Further runs:", to_markdown(others)] * bool(section.others)

    page = _template().render(
        mark=Markup(MARK),
        title=title,
        introduction=introduction,
        parts=[(heading, name, _svg(drawn.get(name)), by_claim(part)) for heading, name, part in parts if part],
        doubts=doubts,
        sections=sections,
        tables=tables,
        small=small,
        colours=figures.COLOURS,
        **{each.__name__.lstrip("_"): each for each in (say_verdict, _caption, _curves, _markdown, _svg)},
    )
    check_out(out)
    try:
        for folder in ("figures", "tables"):
            (out / folder).mkdir(parents=True, exist_ok=True)
            for old in (out / folder).iterdir():
                old.unlink()
        for name, figure in (drawn | small).items():
            write_whole(out / "figures" / f"{name}.svg", figures.to_svg(figure))
        for section in sections:
            _write_table(section, tables[section.table.name], out / "tables" / section.table.name)
        write_whole(out / "README.md", "\n\n".join(text) + "\n")
        write_whole(out / "index.html", page)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written ({error}); give another folder") from error


def _write_table(section: Section, text: pd.DataFrame, path: pathlib.Path) -> None:
    """Write a table to paste into a page, an article or a spreadsheet."""
    write_whole(path.with_suffix(".md"), to_markdown(text) + "\n")
    write_whole(path.with_suffix(".csv"), section.frame.round(4).dropna(axis="columns", how="all").to_csv())
    style = text.style.hide(axis="index").format(escape="latex")
    columns = "".join("l" if column in ("arm", "description") else "r" for column in text)
    style = style.format_index(escape="latex", axis="columns")
    caption = re.sub(r"([%_&#])", r"\\\1", f"{section.table.title}. {_caption(section)}")
    latex = style.to_latex(hrules=True, column_format=columns, caption=caption)
    write_whole(path.with_suffix(".tex"), latex)


def _caption(section: Section) -> str:
    setting = section.study.setting or "the configs as they are"
    return (
        f"Ours is the mean accuracy on the {section.split} images after the last epoch over n seeds, in %: {setting}. "
        f"Differences are from {section.table.control}, with simultaneous 95% intervals."
    )


def _curves(section: Section) -> Figure | None:
    groups = {arm: section.study.runs.get(config.name, []) for arm, config in section.table.configs.items()}
    groups = {arm: [run for run in runs if run.lines] for arm, runs in groups.items()}
    groups = {arm: runs for arm, runs in groups.items() if runs}
    names = {arm: config.paper.curve for arm, config in section.table.configs.items()}
    return figures.draw_curves(groups, names, not section.study.setting) if groups else None


def _svg(figure: Figure | None) -> Markup:
    return Markup(figures.to_svg(figure, inline=True)) if figure else Markup("")


def _markdown(text: str) -> Markup:
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("page.html")


def check_out(out: pathlib.Path) -> None:
    """Check that ``out`` can become a report: a new or empty folder, or an older report.

    Raises:
        UserError: ``out`` is a file, or holds other files.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; give a folder")
    page = out / "README.md"
    is_report = page.is_file() and page.read_text(encoding="utf-8", errors="replace").startswith(MARK)
    if out.exists() and any(out.iterdir()) and not is_report:
        raise UserError(f"--out={out} holds other files and no report; give an empty or a new folder")
