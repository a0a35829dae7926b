"""The site: every page is in it, and a link that leads nowhere is found."""

import tomllib

import pytest

from scripts import site
from tests.conftest import REPOSITORY

PAGE = '<a href="{}">there</a><link rel="canonical" href="https://example.org/"><img src="../{}"><h2 id="here"></h2>'


@pytest.mark.parametrize(
    ("link", "picture", "problem"),
    [
        ("../#here", "a.png", None),
        ("https://example.org/away", "a.png", None),
        ("#here", "a.png", None),
        ("../missing/", "a.png", "page/index.html: ../missing/ leads nowhere"),
        ("../#gone", "a.png", "page/index.html: ../#gone leads nowhere"),
        ("../", "b.png", "page/index.html: ../b.png leads nowhere"),
    ],
)
def test_links_that_lead_nowhere_are_found(tmp_path, link, picture, problem):
    (tmp_path / "page").mkdir()
    (tmp_path / "index.html").write_text(PAGE.format("page/", "a.png").replace("../a.png", "a.png"))
    (tmp_path / "page" / "index.html").write_text(PAGE.format(link, picture))
    (tmp_path / "a.png").touch()
    assert site.find_problems(tmp_path) == ([problem] if problem else [])


def test_other_hosts_are_not_loaded(tmp_path):
    (tmp_path / "index.html").write_text('<script src="https://example.org/a.js"></script>')
    assert site.find_problems(tmp_path) == ["index.html: loads https://example.org/a.js"]


def test_every_page_has_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "SOURCE", tmp_path)
    site.write_source()
    places = {place.as_posix() for place in site.site_pages().values()} | {"reference.md", "try/index.md"}
    assert {page.stem for page in (REPOSITORY / "docs").glob("*.md")} < {place.removesuffix(".md") for place in places}
    settings = (REPOSITORY / "zensical.toml").read_text()
    urls = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["urls"]
    assert f'site_url = "{urls["Documentation"]}"' in settings
    for place in places:
        assert (tmp_path / place).is_file() and f'"{place}"' in settings
    assert "](../" not in (tmp_path / "paper.md").read_text() and "](report.md)" in (tmp_path / "paper.md").read_text()
