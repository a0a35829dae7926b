"""The README's examples run, pages are short, links lead somewhere, and tables have the figures of results/."""

import doctest
import re

import pytest

from scripts import tables
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = sorted({README, *REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("results/**/*.md")})


def test_readme_examples_run(quickstart_run, monkeypatch):
    monkeypatch.chdir(quickstart_run.parent.parent)  # runs/quickstart lies there, as after `make quickstart`
    results = doctest.testfile(str(README), module_relative=False)
    assert results.attempted >= 6 and results.failed == 0


def test_pages_are_short():
    pages = [*(REPOSITORY / "docs").glob("*.md")]
    assert len(README.read_text().split()) <= 900
    assert len(pages) <= 9 and sum(len(page.read_text().split()) for page in pages) <= 8000


def test_tables_have_recorded_figures():
    """If this fails, run ``python -m scripts.tables``."""
    tables.main(["--check"])
    assert tables.fill("<!-- table: skips -->\n| stale |\n<!-- end -->").count("\n") == 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("http")]
    missing = []
    for link in links:
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            missing.append(link)
        elif heading and target.suffix == ".md":
            titles = re.findall(r"(?m)^#+ (.*)$", target.read_text())
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            missing += [link] if heading not in anchors else []
    assert missing == []
