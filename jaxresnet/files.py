"""Writing files so that a crash leaves the old content or the new, never a half."""

import io
import os
import pathlib
from typing import TYPE_CHECKING

from jaxresnet.errors import UserError, user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes ``content`` to ``path``, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def output_path(flag: str, path: str, force: bool) -> pathlib.Path:
    """A file that a command is to write, checked before the work begins.

    Raises:
        UserError: it exists and ``force`` does not allow to overwrite it, or it cannot be written there.
    """
    file = user_path(path)
    if file.is_dir():
        raise UserError(f"{flag}={path} is a folder; give the name of a file")
    if file.exists() and not force:
        raise UserError(f"{flag}={path} exists; give another name, or --force to overwrite it")
    if not file.parent.is_dir():
        raise UserError(f"{flag}={path}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{flag}={path}: the folder {file.parent} cannot be written")
    return file


def write_picture(figure: "Figure", path: pathlib.Path, flag: str) -> None:
    """Writes a figure in the format of the file's ending, whole or not at all.

    Raises:
        UserError: the file that ``flag`` names cannot be written, or its ending is that of no picture.
    """
    content = io.BytesIO()
    try:
        figure.savefig(content, format=path.suffix.removeprefix(".") or "png", dpi=150)
        write_whole(path, content.getvalue())
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}={path}: {error}") from error
