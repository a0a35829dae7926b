"""What the README shows of Python runs as it stands there, and what it says of the modules is so."""

import ast
import doctest
import re

from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
MODULES = {path.stem: path for path in (REPOSITORY / "jaxresnet").glob("*.py") if path.stem != "__init__"}


def test_the_library_as_the_readme_shows_it(quickstart_run, monkeypatch):
    monkeypatch.chdir(quickstart_run.parent.parent)  # where runs/quickstart is what `make quickstart` leaves
    results = doctest.testfile(str(README), module_relative=False)
    assert results.attempted >= 6 and results.failed == 0


def imported_by(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxresnet":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("jaxresnet."):
            yield node.module.partition(".")[2]


def test_no_module_needs_one_that_is_to_be_read_later():
    section = README.read_text().partition("## Read the code")[2].partition("\n## ")[0]
    rows = [re.findall(r"\(jaxresnet/(\w+)\.py\)", line) for line in section.splitlines() if line.startswith("| [")]
    order = [module for row in rows for module in row]
    assert sorted(order) == sorted(MODULES)
    needs = [(module, needed) for module in order for needed in imported_by(module) if needed not in rows[-1]]
    assert len(needs) > 100
    assert [(module, needed) for module, needed in needs if order.index(needed) > order.index(module)] == []
