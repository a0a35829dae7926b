"""The README as a package index shows it, with absolute links and pictures. pyproject.toml has the rest."""

import pathlib
import re
import tomllib

from setuptools import setup

HERE = pathlib.Path(__file__).parent
REPOSITORY = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def absolute(match: re.Match[str]) -> str:
    """Return a Markdown link or picture whose relative target has become an address."""
    is_picture, text, target = match.groups()
    return f"{is_picture}[{text}]({REPOSITORY}/{'raw' if is_picture else 'blob'}/main/{target})"


readme = (HERE / "README.md").read_text(encoding="utf-8")
description = re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)", absolute, readme)
setup(long_description=description, long_description_content_type="text/markdown")
