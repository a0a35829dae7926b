"""Writing files so that a crash leaves the old content or the new, never a half."""

import pathlib


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes ``text`` to ``path``, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
