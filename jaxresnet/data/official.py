"""The official archives of CIFAR-10 and CIFAR-100: found or downloaded, checked, and written in tfds's layout."""

import io
import os
import pathlib
import shutil
import tarfile
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from jaxresnet.data.batches import read_names, read_split
from jaxresnet.data.cifar import OFFICIAL, Archive, Cifar, find_tfds
from jaxresnet.data.download import download
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
        if found := found or _find_fetched(cifar, root):
            _check_space(root, found[1].file.size)  # the records take 85% of the archive's size
            return _write_tfds(root, cifar, *found)
        path, archive = _download(cifar, root)
        folder = _write_tfds(root, cifar, path, archive)
        path.unlink()
        return folder
    except OSError as error:
        raise UserError(
            f"{cifar.name} could not be written to {root} ({error}); set TFDS_DATA_DIR to another folder"
        ) from error


def _identify(cifar: Cifar, path: pathlib.Path) -> Archive:
    for archive in cifar.archives:
        if archive.file.is_at(path):
            return archive
    names = " or ".join(f"{archive.file.name} ({archive.file.size:,} bytes)" for archive in cifar.archives)
    raise UserError(f"{path} is not the official {names}: its size, {path.stat().st_size:,}, or SHA-256 differs")


def _find_fetched(cifar: Cifar, root: pathlib.Path) -> tuple[pathlib.Path, Archive] | None:
    stems = [archive.file.name.removesuffix(".tar.gz") for archive in cifar.archives]
    for folder in (root, root / "downloads", pathlib.Path()):
        for path in sorted(path for stem in stems for path in folder.glob(f"*{stem}*gz")):
            try:
                return path, _identify(cifar, path)
            except (UserError, OSError) as error:
                tqdm.write(f"note: {error}; it is left where it is")
    return None


def _check_space(root: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f"{root} has {free / 1e6:,.0f} MB free, but {needed / 1e6:,.0f} MB are needed; free some space, or set "
            "TFDS_DATA_DIR to another folder"
        )


def _download(cifar: Cifar, root: pathlib.Path) -> tuple[pathlib.Path, Archive]:
    """Download an archive from the user's own site, the official one, or a mirror."""
    own = os.environ.get("JAXRESNET_MIRROR")
    # An own site is the address of either archive, or of a folder that holds the pickled one.
    archive = next((archive for archive in cifar.archives if own and archive.file.name in own), cifar.archives[0])
    file = archive.file
    urls = [OFFICIAL + file.name, *(cifar.mirrors if archive is cifar.archives[0] else ())]
    if own:
        urls.insert(0, own if file.name in own else f"{own.rstrip('/')}/{file.name}")
    part = root / f"{file.name}.part"
    _check_space(root, 2 * file.size - (part.stat().st_size if part.exists() else 0))
    try:
        print(f"downloading {file.name} ({file.size / 1e6:.0f} MB) to {root}", flush=True)
        return download(file, urls, root), archive
    except UserError as error:
        raise UserError(
            f"the data are not in $TFDS_DATA_DIR or ~/tensorflow_datasets, and {file.name} could not be downloaded "
            f"({error}). Start again with a network, which continues the download; fetch {cifar.mirrors[0]} in another "
            f"way and put it into {root}; set JAXRESNET_MIRROR to the address of a copy, or TFDS_DATA_DIR to a tfds "
            f"folder that holds them as array_record; give --config.dataset.data_dir=.../{cifar.archives[0].folder} or "
            "a .npz file; or try --config=quickstart, which needs no download"
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
        contents = {
            pathlib.PurePath(member.name).name: file.read() for member in tar if (file := tar.extractfile(member))
        }

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
    builder.download_and_prepare(download_dir=root)
    return pathlib.Path(builder.data_dir)
