"""Data sets as NumPy arrays: their names, their shape, and .npz files of them."""

import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from jaxresnet.system.errors import UserError, one_line

IMAGE_SHAPE = (32, 32, 3)

# Array names of a data set, in every source and in .npz files.
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
CLASS_NAMES = "class_names"  # a further array of text that a .npz file may hold
Arrays = dict[str, np.ndarray]


def read_npz(path: pathlib.Path, names: Sequence[str]) -> Arrays:
    """Read the named arrays of a .npz file and verify their checksums.

    Raises:
        Exception: many types, if the file is damaged or holds something else.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as entry:
                arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
                # The checksum is verified only at the end of an entry, but np.load stops where the header says.
                if entry.read(1):
                    raise ValueError(f"{name} is longer than its header says")
    return arrays


def load_npz(path: pathlib.Path) -> tuple[Arrays, tuple[str, ...] | None]:
    """Read a data set from a .npz file.

    Returns:
        The arrays in ``ARRAYS``, and the names in ``class_names``, or None if the file has none.

    Raises:
        UserError: the file is damaged, lacks an array, or has class names that are no text.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
        missing = [name for name in ARRAYS if name not in held]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}; a data set needs {', '.join(ARRAYS)}")
        arrays = read_npz(path, [*ARRAYS, CLASS_NAMES] if CLASS_NAMES in held else ARRAYS)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} is not a .npz file, or is damaged ({one_line(error)})") from error
    names = arrays.pop(CLASS_NAMES, None)
    if names is None:
        return arrays, None
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(
            f"{path}: {CLASS_NAMES} are {names.dtype} of shape {names.shape}: expected text of shape (classes,)"
        )
    return arrays, tuple(map(str, names))
