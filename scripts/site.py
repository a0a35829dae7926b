"""Build the site in build/site: README, docs/, lessons, the report of results/, a model to try, and a reference.

    make site

The pages are those that a code host shows. Here, links between them become links between pages, and links to other
files of the repository become links to the code host. A link that leads nowhere fails the build. So does a page that
would load something from another host.
"""

import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse

import jaxresnet

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / "build" / "try"  # what export --format=web has written
REPORT = REPOSITORY / "build" / "report" / "index.html"  # what report has written
SOURCE, SITE = REPOSITORY / "build" / "site-source", REPOSITORY / "build" / "site"  # as zensical.toml names them
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def site_pages() -> dict[pathlib.Path, pathlib.Path]:
    """Return each page of the repository, and its place in the site's source."""
    docs = {page: pathlib.Path(page.name) for page in (REPOSITORY / "docs").glob("*.md")}
    lessons = {page: pathlib.Path(f"{page.stem}.md") for page in (REPOSITORY / "notebooks").glob("*.ipynb")}
    report = REPOSITORY / "results" / "report" / "README.md"
    return {REPOSITORY / "README.md": pathlib.Path("index.md"), report: pathlib.Path("report.md")} | docs | lessons


def read_page(page: pathlib.Path, address: str) -> str:
    """Return the Markdown of a page. A notebook's lacks the cells that Colab hides, and links to the notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    notebook = f"blob/main/{page.relative_to(REPOSITORY).as_posix()}"
    colab = address.replace("https://github.com", "https://colab.research.google.com/github")
    cells = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in json.loads(text)["cells"]
        if "cellView" not in cell["metadata"]
    ]
    links = f"[The notebook]({address}/{notebook}), or [in Colab]({colab}/{notebook}). Outputs are left out here."
    title, _, rest = "\n\n".join(cells).partition("\n")
    return f"{title}\n\n{links}\n{rest}\n"


def write_source() -> None:
    """Write the site's source: pages with adapted links, their pictures, the page of the model, and the reference.

    Raises:
        SystemExit: a link leads nowhere.
    """
    shutil.rmtree(SOURCE, ignore_errors=True)
    pages, problems = site_pages(), []
    urls = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    address, demo = urls["Repository"], f"{urls['Documentation']}try/"
    for page, place in pages.items():

        def adapt(match: re.Match[str], page: pathlib.Path = page) -> str:
            before, link, after = match.groups()
            path, _, anchor = link.partition("#")
            if link == demo:
                return before + "try/index.md" + after
            if re.match("[a-z]+:", link) or not path:
                return match[0]
            target = (page.parent / urllib.parse.unquote(path)).resolve()
            if not target.exists():
                problems.append(f"{page.relative_to(REPOSITORY)}: {link} does not exist")
                return match[0]
            name = target.relative_to(REPOSITORY).as_posix()
            if target in pages:
                new = pages[target].as_posix()
            elif target.suffix in (".png", ".svg"):
                new = f"pictures/{name}"
                (SOURCE / new).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(target, SOURCE / new)
            else:
                new = f"{address}/{'tree' if target.is_dir() else 'blob'}/main/{name}"
            return before + new + (f"#{anchor}" if anchor else "") + after

        text = _LINK.sub(adapt, read_page(page, address))
        if place.name == "report.md":
            title, _, rest = text.partition("\n")
            link = '<a href="report/all.html">A page of its own</a> has the curves of each arm, too.'
            text = f"{title}\n\n{link}\n{rest}"
        (SOURCE / place).parent.mkdir(parents=True, exist_ok=True)
        (SOURCE / place).write_text(text, encoding="utf-8")
    demo = (REPOSITORY / "jaxresnet" / "web" / "index.html").read_text(encoding="utf-8")
    part = demo.split("<!-- demo", 1)[1].split("-->", 1)[1].split("<!-- end of demo", 1)[0]
    (SOURCE / "try").mkdir()
    (SOURCE / "try" / "index.md").write_text(f"---\nhide: [toc]\n---\n# Try it\n\n{part}", encoding="utf-8")
    names = "\n\n".join(f"::: jaxresnet.{name}" for name in sorted(jaxresnet.__all__))
    introduction = "The public names of the package. Everything else may change between versions."
    (SOURCE / "reference.md").write_text(f"# Reference\n\n{introduction}\n\n{names}\n", encoding="utf-8")
    if problems:
        sys.exit("\n".join(problems))


class _Links(html.parser.HTMLParser):
    """Links and anchors of a page, and what it loads by itself."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Record a tag's links and anchors."""
        values = {name: value for name, value in attributes if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        is_loaded = tag != "link" or values.get("rel") in ("stylesheet", "icon", "preload", "modulepreload")
        if tag != "a" and is_loaded:
            self.loads += [values[name] for name in ("src", "href") if name in values]
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])


def find_problems(site: pathlib.Path) -> list[str]:
    """Return a line for each link of a built site that leads nowhere, and for what is loaded from another host."""
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    parsed = {page: _Links(page.read_text(encoding="utf-8")) for page in pages}
    problems = []
    for page, found in parsed.items():
        for link in [*found.links, *found.loads]:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in found.loads and parts.scheme != "data":
                    problems.append(f"{page.relative_to(site)}: loads {link}")
                continue
            target = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file() or (target in parsed and anchor not in parsed[target].anchors):
                problems.append(f"{page.relative_to(site)}: {link} leads nowhere")
    return problems


def main() -> None:
    """Build the site and check it."""
    write_source()
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = pathlib.Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--strict", "--clean"], cwd=REPOSITORY, check=True)
    shutil.copytree(DEMO, SITE / "try", dirs_exist_ok=True, ignore=shutil.ignore_patterns("index.html"))
    shutil.copy(REPORT, SITE / "report" / "all.html")
    if problems := find_problems(SITE):
        sys.exit("\n".join(problems))
    print(f"{SITE}/index.html")


if __name__ == "__main__":
    main()
