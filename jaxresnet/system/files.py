"""Write files atomically: a crash leaves either the old content or the new."""

import contextlib
import io
import json
import os
import pathlib
import secrets
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxresnet.system.errors import UserError, user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".webp")


def cache_folder() -> pathlib.Path:
    """Return the folder for data that can be recreated: ``$XDG_CACHE_HOME/jaxresnet``, or ``~/.cache/jaxresnet``."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    # Without a home folder, as in some containers, "~" stays. Nothing can be kept below /dev/null, so nothing is.
    return pathlib.Path(os.devnull if folder.startswith("~") else folder, "jaxresnet")


def shipped_folder(name: str) -> pathlib.Path:
    """Return a folder that comes with the package: in a clone beside it, when installed from a wheel inside of it."""
    package = pathlib.Path(__file__).parents[1]
    return (package if (package / name).is_dir() else package.parent) / name


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` atomically, over what is there."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(flag: str, folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Write a new folder, which gets its name when it is complete, so that a failure leaves no part of it.

    Args:
        flag: command-line flag that gives the folder.
        folder: path of the folder.

    Yields:
        The folder to write into.

    Raises:
        UserError: the path exists.
    """
    if os.path.lexists(folder):
        raise UserError(f"{flag}={folder} exists; give a new folder, because nothing is overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new = pathlib.Path(temporary) / folder.name
        new.mkdir()
        yield new
        new.rename(folder)


def to_json(fields: Any, **options: Any) -> str:
    """Return JSON for any reader, in which NaN and infinity are null: JSON has no such numbers."""
    finite = json.loads(json.dumps(fields), parse_constant=lambda _: None)
    return json.dumps(finite, ensure_ascii=False, **options)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Delete temporary files left by killed writers. The caller must hold the folder's lock."""
    for leftover in folder.glob(f".*.{'[0-9a-f]' * 8}.tmp"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Draw as matplotlib does by default, whatever the user's matplotlibrc says, which could ask for LaTeX."""
    os.environ["MPLBACKEND"] = "agg"  # A mistyped one would fail, and no window is opened.
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings(record=True) as caught:
        matplotlib.rcdefaults()
        yield
    if caught:  # one for each character that the font lacks
        print(f"note: in a picture: {' '.join(str(caught[0].message).split())}", file=sys.stderr)


def write_figure(path: pathlib.Path, figure: "Figure") -> None:
    """Write a picture atomically, in the format of the file's ending, over what is there."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=150)
    write_whole(path, content.getvalue())


def output_file(flag: str, path: str, force: bool, endings: Sequence[str] = ()) -> pathlib.Path:
    """Check an output file of a command before the work begins, and return its path.

    Args:
        flag: command-line flag that gives the path.
        path: path as the user gave it.
        force: True to allow overwriting a file.
        endings: allowed endings, such as ``.csv``; any ending if empty.

    Raises:
        UserError: the ending is not allowed, the file exists and ``force`` is False, or it cannot be written there.
    """
    file = user_path(path)
    if endings and file.suffix not in endings:
        raise UserError(f"{flag}={path}: expected a name that ends in {', '.join(endings[:-1])} or {endings[-1]}")
    if os.path.lexists(file) and not force:
        raise UserError(f"{flag}={file} exists; give another name, or --force to overwrite it")
    if os.path.lexists(file) and not file.is_file():
        raise UserError(f"{flag}={path} is a folder or a device, not a file; give another name")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(f"{flag}={path}: the folder {file.parent} does not exist or cannot be written")
    return file
