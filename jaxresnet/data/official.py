"""The official archives of CIFAR-10 and CIFAR-100: found or downloaded, checked, and written in tfds's layout."""

import io
import os
import pathlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

import filelock
from tqdm import tqdm

from jaxresnet.data.batches import read_names, read_split
from jaxresnet.data.cifar import OFFICIAL, Archive, Cifar, find_tfds
from jaxresnet.data.download import download, is_at
from jaxresnet.system.errors import UserError, user_path


def prepare(cifar: Cifar, path: pathlib.Path | None = None) -> pathlib.Path:
    """Return the newest version folder of a data set in $TFDS_DATA_DIR or ~/tensorflow_datasets.

    If there is none, it is written from the official archive at ``path``, from one that the user put into that folder,
    its downloads/ or the current folder, or from one that is downloaded.

    Raises:
        UserError: ``path`` is not an official archive, the download fails, or the folder cannot be written.
    """
    root = user_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    found = path and (path, _identify(cifar, path))
    if folder := find_tfds(root, cifar.name):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f".{cifar.name}.lock"):  # Another process may be preparing it.
            return find_tfds(root, cifar.name) or _prepare(cifar, root, found or _find_fetched(cifar, root))
    except OSError as error:
        raise UserError(
            f"{cifar.name} could not be written to {root} ({error}); set TFDS_DATA_DIR to another folder"
        ) from error


def _prepare(cifar: Cifar, root: pathlib.Path, found: tuple[pathlib.Path, Archive] | None) -> pathlib.Path:
    path, archive = found or _download(cifar, root)
    _check_space(root, archive.size)  # more than the records take
    folder = _write_tfds(root, cifar, path, archive)
    if not found:
        path.unlink()
    return folder


def _identify(cifar: Cifar, path: pathlib.Path) -> Archive:
    for archive in cifar.archives:
        if is_at(archive, path):
            return archive
    names = " or ".join(f"{archive.name} ({archive.size:,} bytes)" for archive in cifar.archives)
    raise UserError(f"{path} is not the official {names}: its size, {path.stat().st_size:,}, or its SHA-256 differs")


def _find_fetched(cifar: Cifar, root: pathlib.Path) -> tuple[pathlib.Path, Archive] | None:
    for folder in (root, root / "downloads", pathlib.Path()):  # tfds and browsers add to a name, before its ending
        for path in (path for archive in cifar.archives for path in folder.glob(f"*{archive.name[:-7]}*.gz")):
            try:
                return path, _identify(cifar, path)
            except (UserError, OSError) as error:
                tqdm.write(f"note: {error}; it is not used")
    return None


def _check_space(root: pathlib.Path, needed: int) -> None:
    if (free := shutil.disk_usage(root).free) < needed:
        raise UserError(
            f"{root} has {free / 1e6:,.0f} MB free, but {needed / 1e6:,.0f} MB are needed; free some, or set "
            "TFDS_DATA_DIR to another folder"
        )


def _download(cifar: Cifar, root: pathlib.Path) -> tuple[pathlib.Path, Archive]:
    """Download an archive from the user's own site, the official one, or a mirror."""
    pickled, binary = cifar.archives
    own = os.environ.get("JAXRESNET_MIRROR", "")  # address of an archive, or of the pickled one's folder
    archive = binary if binary.name in own else pickled
    sources = [own if archive.name in own else f"{own.rstrip('/')}/{{}}"] if own else []
    sources += [OFFICIAL, *(cifar.mirrors if archive is pickled else ())]
    part = root / f"{archive.name}.part"
    _check_space(root, 2 * archive.size - (part.stat().st_size if part.exists() else 0))
    print(f"downloading {archive.name} ({archive.size / 1e6:.0f} MB) to {root}", flush=True)
    try:
        return download(archive, [source.replace("{}", archive.name) for source in sources], root), archive
    except UserError as error:
        raise UserError(
            f"the data are not in $TFDS_DATA_DIR or ~/tensorflow_datasets, and {archive.name} could not be downloaded "
            f"({error}). Start again with a network, to continue; put a copy of it from elsewhere, such as "
            f"{cifar.mirrors[0].format(pickled.name)}, into {root}; set JAXRESNET_MIRROR to its address, or "
            f"TFDS_DATA_DIR to a tfds folder with array_record files; give --config.dataset.data_dir=.../"
            f"{pickled.folder} or a .npz file; or try --config=quickstart, which needs no download"
        ) from error


def _write_tfds(root: pathlib.Path, cifar: Cifar, path: pathlib.Path, archive: Archive) -> pathlib.Path:
    """Write the images of an archive below ``root`` as tfds does, and return their version folder.

    tfds itself encodes the images with TensorFlow. This subclass of its builder does that with Pillow, and leaves the
    shuffling and metadata to tfds, so that any of its users can read the result.
    """
    # Imported here because they take a second and only a first run needs them.
    import tensorflow_datasets as tfds
    from PIL import Image

    original = getattr(tfds.image_classification, cifar.name.capitalize())
    with tarfile.open(path) as tar:
        contents = {pathlib.PurePath(entry.name).name: file.read() for entry in tar if (file := tar.extractfile(entry))}

    class Builder(original, skip_registration=True):  # type: ignore[call-arg, misc, valid-type]
        name, __module__ = cifar.name, original.__module__  # dataset_info.json names them

        def _split_generators(self, dl_manager: Any) -> Any:
            for label in cifar.labels:
                self.info.features[label].names = read_names(cifar, archive, label, contents.__getitem__)
            return {split: self._generate_examples(split) for split in cifar.batches}

        def _generate_examples(self, split: str) -> Iterator[Any]:
            images, labels = read_split(cifar, archive, split, contents.pop, path)
            for index, image in enumerate(images):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                png.seek(0)
                targets = {label: int(labels[label][index]) for label in cifar.labels}
                yield index, {"id": f"{split}_{index:05d}", "image": png, **targets}

    builder = Builder(data_dir=root, file_format="array_record")
    with tempfile.TemporaryDirectory() as unused:  # tfds makes folders for archives in it
        builder.download_and_prepare(download_dir=unused)
    return pathlib.Path(builder.data_dir)
