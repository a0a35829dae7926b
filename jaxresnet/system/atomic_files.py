"""Write files atomically: a crash leaves either the old content or the new."""

import contextlib
import io
import os
import pathlib
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxresnet.system.errors import UserError, user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".webp")


def cache_folder() -> pathlib.Path:
    """Return the folder for data that can be recreated: ``$XDG_CACHE_HOME/jaxresnet``, or ``~/.cache/jaxresnet``."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxresnet"


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` atomically, over what is there."""
    with _written_beside(path, content) as temporary:
        temporary.replace(path)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Delete temporary files left by killed writers. The caller must hold the folder's lock."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


class OutputFile(NamedTuple):
    """Output file of a command.

    Attributes:
        path: path of the file.
        flag: command-line flag that gives the path.
        force: True to overwrite an existing file.
    """

    path: pathlib.Path
    flag: str
    force: bool

    def write(self, content: str | bytes) -> None:
        """Write the file atomically.

        Raises:
            UserError: the file exists by now and ``force`` is False, or it cannot be written.
        """
        try:
            with _written_beside(self.path, content) as temporary:
                if self.force:
                    temporary.replace(self.path)
                else:
                    os.link(temporary, self.path)  # fails if the file exists, unlike replace
        except FileExistsError as error:
            raise self._exists() from error
        except OSError as error:
            raise UserError(f"{self.flag}={self.path} cannot be written ({error})") from error

    def write_figure(self, figure: "Figure") -> None:
        """Write a picture in the format of the file's ending. Errors are those of ``write``."""
        content = io.BytesIO()
        figure.savefig(content, format=self.path.suffix.removeprefix("."), dpi=150)
        self.write(content.getvalue())

    def _exists(self) -> UserError:
        return UserError(f"{self.flag}={self.path} exists; give another name, or --force to overwrite it")


def output_file(flag: str, path: str, force: bool, endings: Sequence[str] = ()) -> OutputFile:
    """Check an output file before the work begins, and return it.

    Args:
        flag: command-line flag that gives the path.
        path: path as the user gave it.
        force: True to allow overwriting a file.
        endings: allowed endings, such as ``.csv``; any ending if empty.

    Raises:
        UserError: the ending is not allowed, the file exists and ``force`` is False, or it cannot be written there.
    """
    output = OutputFile(user_path(path), flag, force)
    file = output.path
    if endings and file.suffix not in endings:
        raise UserError(f"{flag}={path}: expected a name that ends in {', '.join(endings[:-1])} or {endings[-1]}")
    if os.path.lexists(file) and not force:
        raise output._exists()
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{flag}={path} is a folder or a device, not a file; give another name")
    if not file.parent.is_dir():
        raise UserError(f"{flag}={path}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{flag}={path}: the folder {file.parent} cannot be written")
    return output


@contextlib.contextmanager
def _written_beside(path: pathlib.Path, content: str | bytes) -> Iterator[pathlib.Path]:
    """Write ``content`` to a temporary file beside ``path``. Delete it afterwards unless it was renamed."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
