"""Report on tables of experiments from their finished runs.

    jaxresnet report --workdir=results --out=report
    jaxresnet report --workdir=runs --configs=my_table.py --out=report

The report opens with what the runs say of each claim and then has every table, as a page, index.html, that needs no
network, as Markdown, and in tables/ as Markdown, LaTeX and CSV to paste. Tables, arms and claims come from the config
files, and measurements from the runs.
"""

import argparse
import pathlib

from jaxresnet import cli
from jaxresnet.config import CONFIGS
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import default_style
from jaxresnet.workdir.runs import read_runs


@default_style()
def write_report(workdir: pathlib.Path, out: pathlib.Path, configs: pathlib.Path) -> None:
    """Write README.md, index.html, figures/ and tables/ to ``out``.

    Args:
        workdir: folder of the runs, at any depth.
        out: new or empty folder, or an older report to replace.
        configs: config file of a table, or a folder of them.

    Raises:
        UserError: missing ``workdir``, no runs of a table, no tables, or an ``out`` that holds something else.
    """
    # Imported here because the import of matplotlib can fail.
    from jaxresnet.report.page import check_out, make_section, write
    from jaxresnet.report.study import group_runs, judge, keep_compared, list_doubts, load_tables

    if not workdir.exists():
        raise UserError(f"--workdir={workdir}: there is no such folder; give the folder of the runs")
    check_out(out)  # First, because reading and drawing take long.
    tables = load_tables(configs)
    studies = group_runs(read_runs(workdir), tables)
    tables = keep_compared(tables, studies)
    if not tables:
        problem = f"--workdir={workdir}: there is no finished run of a table in --configs={configs}"
        raise UserError(f"{problem}; give the folder of the runs, and the table's config file")
    sections = [make_section(table, studies) for table in tables]
    write(sections, judge(tables, studies), [*list_doubts(studies)], out)


def draw(arguments: argparse.Namespace) -> None:
    """Write the report as the flags say."""
    out = user_path(arguments.out)
    write_report(user_path(arguments.workdir), out, user_path(arguments.configs))
    print(f"{out}/README.md, {out}/index.html")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("report", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of the runs, at any depth")
    parser.add_argument("--out", required=True, help="folder to write README.md, index.html, figures/ and tables/ to")
    text = "a table's config file, or a folder of them (default: this project's)"
    parser.add_argument("--configs", default=str(CONFIGS), help=text)
    cli.run(draw, parser, argv)


if __name__ == "__main__":
    main()
