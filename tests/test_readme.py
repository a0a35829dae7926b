"""The README's Python examples run and print what it shows, and the links of every page lead somewhere."""

import doctest
import re

import pytest

from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = sorted({README, *REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("results/**/*.md")})


def test_the_library_as_the_readme_shows_it(quickstart_run, monkeypatch):
    monkeypatch.chdir(quickstart_run.parent.parent)  # runs/quickstart lies there, as after `make quickstart`
    results = doctest.testfile(str(README), module_relative=False)
    assert results.attempted >= 6 and results.failed == 0


def test_it_is_short():
    assert len(README.read_text().split()) <= 1000


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
