"""Where files go, and writing them so that a crash leaves the old content or the new, and nothing else is touched."""

import contextlib
import io
import os
import pathlib
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import filelock

from jaxresnet.errors import UserError, user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCK_FILE = ".lock"
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".webp")


def cache_folder() -> pathlib.Path:
    """Where what can be made again is kept: ``$XDG_CACHE_HOME/jaxresnet``, or ``~/.cache/jaxresnet``."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxresnet"


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes ``content`` to ``path``, whole or not at all, over what is there."""
    with _written_beside(path, content) as temporary:
        temporary.replace(path)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what processes that were killed while they wrote have left in a folder that nobody else writes to."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Within it, no other process that asks for the same may write to ``folder``.

    Raises:
        UserError: another one does already.
        OSError: the folder cannot be written.
    """
    lock = filelock.FileLock(folder / LOCK_FILE)  # the system releases it when a process ends, however it ends
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise UserError(f"{folder} is in use by another process; wait for that, or give another --workdir") from error
    try:
        yield
    finally:
        lock.release()


class OutputFile(NamedTuple):
    """A file that a command is to write.

    Attributes:
        path: of the file.
        flag: that names it.
        force: whether to overwrite what is there.
    """

    path: pathlib.Path
    flag: str
    force: bool

    def write(self, content: str | bytes) -> None:
        """Writes the file, whole or not at all.

        Raises:
            UserError: it exists by now and is not to be overwritten, or it cannot be written.
        """
        try:
            with _written_beside(self.path, content) as temporary:
                if self.force:
                    temporary.replace(self.path)
                else:
                    os.link(temporary, self.path)  # fails where there is a file, which replace would overwrite
        except FileExistsError as error:
            raise self._exists() from error
        except OSError as error:
            raise UserError(f"{self.flag}={self.path} cannot be written ({error})") from error

    def write_figure(self, figure: "Figure") -> None:
        """Writes a picture in the format of the file's ending; raises as ``write`` does."""
        content = io.BytesIO()
        figure.savefig(content, format=self.path.suffix.removeprefix("."), dpi=150)
        self.write(content.getvalue())

    def _exists(self) -> UserError:
        return UserError(f"{self.flag}={self.path} exists; give another name, or --force to overwrite it")


def output_file(flag: str, path: str, force: bool, endings: Sequence[str] = ()) -> OutputFile:
    """A file that a command is to write, checked before the work begins.

    Args:
        flag: that names it.
        path: as the user gave it.
        force: whether it may overwrite a file.
        endings: that it may have; any, if none are given.

    Raises:
        UserError: it exists and is not to be overwritten, or it cannot be written there.
    """
    output = OutputFile(user_path(path), flag, force)
    file = output.path
    if endings and file.suffix not in endings:
        raise UserError(f"{flag}={path}: expected a name that ends in {', '.join(endings[:-1])} or {endings[-1]}")
    if os.path.lexists(file) and not force:
        raise output._exists()
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{flag}={path} is no file but a folder or a device; give another name")
    if not file.parent.is_dir():
        raise UserError(f"{flag}={path}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{flag}={path}: the folder {file.parent} cannot be written")
    return output


@contextlib.contextmanager
def _written_beside(path: pathlib.Path, content: str | bytes) -> Iterator[pathlib.Path]:
    """A new file in the same folder that holds ``content``; it is gone afterwards, unless it was given another name."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
