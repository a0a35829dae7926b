"""The folder of a run: whose it is, and who may write to it."""

import contextlib
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from jaxresnet import hosts
from jaxresnet.config import CONFIG_FILE, check_same_training, save_config
from jaxresnet.errors import UserError
from jaxresnet.files import alone_in, remove_leftovers
from jaxresnet.release_files import WEIGHTS_FILE, is_release


def check_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses a folder that holds anything but this run.

    Raises:
        UserError: it is a file, holds another run or other files, or cannot be read.
    """
    try:
        if workdir.exists() and not workdir.is_dir():
            raise UserError(f"workdir {workdir} is a file; give a folder")
        if is_release(workdir):
            raise UserError(
                f"workdir {workdir} holds a release, which is not trained on; give another folder, and begin with its "
                f"weights by: jaxresnet.convert --from_torch={workdir / WEIGHTS_FILE}"
            )
        if (workdir / CONFIG_FILE).exists():
            check_same_training(config, workdir)
        elif workdir.is_dir() and any(not path.name.startswith(".") for path in workdir.iterdir()):
            raise UserError(f"workdir {workdir} holds other files and no run; give an empty or a new folder")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be read ({error}); give another --workdir") from error


@contextlib.contextmanager
def opened(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """The workdir, in which the first process of this run, and no other run, may write from now on.

    Raises:
        UserError: it holds another run, is in use, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone_in(workdir))
                check_workdir(config, workdir)  # again: another run can have begun and ended here since
                remove_leftovers(workdir)
                save_config(config, workdir)
            except OSError as error:
                raise UserError(f"workdir {workdir} cannot be written ({error}); give another --workdir") from error
        yield


@contextlib.contextmanager
def explaining_full_disks(workdir: pathlib.Path) -> Iterator[None]:
    """Makes one line of it that a file can no longer be written.

    Raises:
        UserError: in the place of other errors of the system.
    """
    try:
        yield
    except BrokenPipeError:  # of who reads what is printed
        raise
    except OSError as error:
        raise UserError(f"workdir {workdir} could no longer be written ({error}); mend that and start again") from error
