"""Check, create and lock run directories."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import filelock
from ml_collections import ConfigDict

from jaxresnet.system import processes
from jaxresnet.system.atomic_files import remove_leftovers
from jaxresnet.system.errors import Diverged, UserError
from jaxresnet.config import check_same_training, save_config
from jaxresnet.workdir.files import write_failure
from jaxresnet.workdir.names import CHECKPOINTS_FOLDER, CONFIG_FILE, LOCK_FILE, WEIGHTS_FILE
from jaxresnet.workdir.release import is_release


def check_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Check that ``workdir`` is new, empty or holds this run.

    Raises:
        UserError: it is a file, holds a release, another run or other files, or cannot be read.
    """
    try:
        if workdir.exists() and not workdir.is_dir():
            raise UserError(f"workdir {workdir} is a file; give a folder")
        if is_release(workdir):
            raise UserError(
                f"workdir {workdir} holds a release, and releases are not trained further; give another folder, and "
                f"begin with these weights: jaxresnet.convert --from_torch={workdir / WEIGHTS_FILE} --config=... "
                "--workdir=..."
            )
        if (workdir / CONFIG_FILE).exists():
            check_same_training(config, workdir)
        elif workdir.is_dir() and any(not path.name.startswith(".") for path in workdir.iterdir()):
            raise UserError(f"workdir {workdir} holds other files and no run; give an empty or a new folder")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be read ({error}); give another --workdir") from error


@contextlib.contextmanager
def alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``.

    Raises:
        UserError: another process holds the lock.
        OSError: the folder cannot be written.
    """
    lock = filelock.FileLock(folder / LOCK_FILE)  # the system releases it even if the process is killed
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise UserError(f"{folder} is in use by another process; wait for it, or give another --workdir") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def opened(workdir: pathlib.Path, config: ConfigDict) -> Iterator[Callable[[], None]]:
    """Create and lock the workdir in the first process, the only one that writes. If the run diverges, record why.

    Yields:
        A function to call before each write. It raises UserError if the workdir was moved or deleted since.

    Raises:
        UserError: the workdir holds another run, is in use, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone_in(workdir))
                check_workdir(config, workdir)  # Check again: another run may have begun here since.
                remove_leftovers(workdir)
                save_config(config, workdir)
            except OSError as error:
                raise UserError(f"workdir {workdir} cannot be written ({error}); give another --workdir") from error
        try:
            yield _check_of_place(workdir) if processes.is_first() else lambda: None
        except Diverged as error:
            if processes.is_first():
                write_failure(str(error), workdir)
            raise


def _check_of_place(workdir: pathlib.Path) -> Callable[[], None]:
    here = os.stat(workdir)

    def check() -> None:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(workdir), here):
                return
            # Delete what a save has made in the old place, and nothing else that may be there by now.
            made = workdir / CHECKPOINTS_FOLDER
            if [*workdir.iterdir()] == [made] and all(".orbax-checkpoint-tmp" in path.name for path in made.iterdir()):
                shutil.rmtree(workdir)
        raise UserError(
            f"workdir {workdir} was moved or deleted while it was trained in; put it back, and run the same command "
            "to resume from its newest checkpoint"
        )

    return check


@contextlib.contextmanager
def explaining_full_disks(workdir: pathlib.Path) -> Iterator[None]:
    """Turn file-system errors, such as a full disk, into a UserError.

    Raises:
        UserError: an OSError was raised, other than BrokenPipeError.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of stdout has ended: no fault of the workdir
        raise
    except OSError as error:
        raise UserError(f"workdir {workdir} could no longer be written ({error}); fix that and start again") from error
