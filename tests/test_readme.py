"""What the README shows of Python runs as it stands there."""

import doctest

from tests.conftest import REPOSITORY


def test_the_library_as_the_readme_shows_it(quickstart_run, monkeypatch):
    monkeypatch.chdir(quickstart_run.parent.parent)  # where runs/quickstart is what `make quickstart` leaves
    results = doctest.testfile(str(REPOSITORY / "README.md"), module_relative=False)
    assert results.attempted >= 6 and results.failed == 0
