"""Docstrings do not begin as fragments. ruff's rules D check the rest."""

import ast

import pytest

from tests.conftest import REPOSITORY

FOLDERS = ("jaxresnet", "configs", "examples", "scripts", "tests")
FRAGMENTS = ("Of", "For", "From", "Whether", "What", "Such", "Until", "Within")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_as_a_fragment(folder):
    found = []
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0].rstrip(",:") in FRAGMENTS:
                    found.append(f"{path.relative_to(REPOSITORY)}: {' '.join(words[:6])}")
    assert found == []
