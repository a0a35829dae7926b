"""A report as a folder: Markdown with figures, and the same as one self-contained HTML page."""

import base64
import html
import io
import itertools
import os
import pathlib
import re

import matplotlib
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from jaxresnet.system.errors import UserError
from jaxresnet.system.files import write_whole

MARKDOWN_FILE, PAGE_FILE, FIGURES_FOLDER = "README.md", "index.html", "figures"
_MARK = "<!-- written by jaxresnet.report -->\n"  # the first line of MARKDOWN_FILE tells a report from other folders

LONG_CELL = 30  # characters; longer cells have several lines

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.55 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 52rem; margin: 0 auto;
  padding: 1rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 3rem; border-top: 1px solid #ccc;
  padding-top: 1rem; } h3 { font-size: 1.05rem; margin-top: 2rem; }
a { color: #0b57a4; } code { font-size: 0.92em; background: #f3f3f3; padding: 0.05em 0.25em; border-radius: 3px; }
pre { background: #f3f3f3; padding: 0.7rem; overflow-x: auto; } pre code { padding: 0; }
/* Shadows at the edges show that a wide table scrolls. */
.table { overflow-x: auto; background: linear-gradient(to right, #fff 30%, #fff0), linear-gradient(to left, #fff 30%,
  #fff0) 100% 0, radial-gradient(farthest-side at 0 50%, #0004, #0000), radial-gradient(farthest-side at 100% 50%,
  #0004, #0000) 100% 0; background-repeat: no-repeat; background-size: 2.5rem 100%, 2.5rem 100%, 0.9rem 100%,
  0.9rem 100%; background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: 0.92rem; margin: 0.8rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom; }
td.text { white-space: normal; min-width: 10rem; }
img { display: block; width: 100%; max-width: 40rem; height: auto; margin: 1rem auto; }
@media (max-width: 36rem) { body { padding: 0.6rem 0.7rem 3rem; } table { font-size: 0.82rem; }
  th, td { padding: 0.2rem 0.4rem; } }
/* Tables of text, which have no numbers at the right, fold on a phone. Each cell then has the header's words. */
@media screen and (max-width: 36rem) { table:has(td.text:first-child):not(:has([style])) {
  tr { display: block; padding: 0.5rem 0; border-bottom: 1px solid #ddd; } thead { display: none; }
  td { display: block; white-space: normal; border: 0; } td:first-child { font-weight: 600; }
  td:not(:first-child)::before { content: attr(data-label) ": "; opacity: 0.7; } } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2, h3 { break-after: avoid; }
  img { max-width: 11cm; break-inside: avoid; } tr, p, li { break-inside: avoid; }
  thead { display: table-header-group; } .table { overflow-x: visible; background: none; }
  table { font-size: 8.5pt; } th, td { padding: 0.2rem 0.4rem; }
  a { color: inherit; text-decoration: none; } }
@media screen and (prefers-color-scheme: dark) { body { color: #ddd; background: #161616; } a { color: #7db4ee; }
  code, pre { background: #262626; } h2 { border-color: #444; } th, td { border-color: #3a3a3a; }
  img { filter: invert(0.91) hue-rotate(180deg); }
  .table { background-image: linear-gradient(to right, #161616 30%, #16161600), linear-gradient(to left, #161616 30%,
    #16161600), radial-gradient(farthest-side at 0 50%, #fff5, #fff0), radial-gradient(farthest-side at 100% 50%,
    #fff5, #fff0); } }
"""


class Page:
    """Report under construction. Nothing is written to disk before ``write``."""

    def __init__(self, title: str):
        self._title = title
        self._parts = [f"# {title}"]
        self._figures: dict[str, str] = {}

    def add(self, markdown: str) -> None:
        """Append a paragraph, a table or other Markdown."""
        self._parts.append(markdown)

    def add_figure(self, name: str, figure: Figure, description: str) -> None:
        """Append a figure with ``description`` as its alternative text."""
        text = io.StringIO()
        # Without dates and random ids, equal figures are equal files.
        with matplotlib.rc_context({"svg.hashsalt": "jaxresnet"}):
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        path = f"{FIGURES_FOLDER}/{name}.svg"
        self._figures[path] = text.getvalue()
        self._parts.append(f"![{description}]({path})")

    def write(self, out: pathlib.Path) -> None:
        """Write README.md, index.html and figures/ to ``out``. Only an older report is overwritten.

        Raises:
            UserError: ``out`` is a file, holds other files, or cannot be written.
        """
        check_out(out)
        try:
            (out / FIGURES_FOLDER).mkdir(parents=True, exist_ok=True)
            for old in (out / FIGURES_FOLDER).glob("*.svg"):
                old.unlink()
            for path, svg in self._figures.items():
                (out / path).write_text(svg, encoding="utf-8")
            markdown = "\n\n".join(self._parts) + "\n"
            write_whole(out / MARKDOWN_FILE, _MARK + markdown)
            write_whole(out / PAGE_FILE, self._to_html(markdown))
        except OSError as error:
            raise UserError(f"--out={out} cannot be written ({error}); give another folder") from error

    def _to_html(self, markdown: str) -> str:
        parser = MarkdownIt("commonmark", {"html": False}).enable("table")
        parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
        parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
        tokens = parser.parse(markdown)
        header: list[str] = []
        column = 0
        for before, token in itertools.pairwise(tokens):
            text = "".join(child.content for child in token.children or ())
            if before.type == "heading_open":
                before.attrSet("id", anchor(token.content))
            elif before.type == "tr_open":
                header, column = [] if token.type == "th_open" else header, 0
            elif before.type == "th_open":
                header.append(text)
            elif before.type == "td_open":
                if len(text) > LONG_CELL:
                    before.attrSet("class", "text")
                before.attrSet("data-label", header[column])
                column += 1
            for child in token.children or ():
                if child.type == "image":
                    child.attrSet("src", _data_uri(self._figures[str(child.attrs["src"])]))
        body = parser.renderer.render(tokens, parser.options, {})
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
        )


def anchor(heading: str) -> str:
    """Return the link target of a heading, as GitHub names it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def table(header: list[str], rows: list[list[str]], is_text: bool = False) -> str:
    """Format a Markdown table. The first column is aligned left, and the others too if ``is_text``, else right."""
    lines = [header, ["---"] + ["---" if is_text else "---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def check_out(out: pathlib.Path) -> None:
    """Check that ``out`` can become a report: a new or empty folder, or an older report.

    Raises:
        UserError: ``out`` is a file, holds other files, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file; give a folder")
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out={out} cannot be written; give another folder")
    page = out / MARKDOWN_FILE
    is_report = page.is_file() and page.read_text(encoding="utf-8", errors="replace").startswith(_MARK)
    if out.exists() and any(out.iterdir()) and not is_report:
        raise UserError(f"--out={out} holds other files and no report; give an empty or a new folder")


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
