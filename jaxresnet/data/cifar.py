"""CIFAR-10 and CIFAR-100, kept in tfds's layout and read in the order of the official archive.

tfds shuffles its records, so their ids restore that order. A run then does not depend on where its images came from.
"""

import hashlib
import http.client
import io
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
import types
import urllib.request
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxresnet.system.errors import UserError, one_line, user_path
from jaxresnet.system.files import cache_folder, write_whole

IMAGE_SIZE = 32  # height and width of its images, and of others unless a config says otherwise
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
NUM_TRAIN, NUM_TEST = 50_000, 10_000
TIMEOUT_SECONDS = 20.0  # for connecting, and for each read

# Array names of a data set, in every source and in .npz files.
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
Arrays = dict[str, np.ndarray]


class Cifar(NamedTuple):
    """A data set, whose address, hash and files tfds knows."""

    name: str  # tfds's
    labels: dict[str, int]  # number of classes, by tfds's name of each byte before an image; "label" is used
    fingerprint: str | None  # expected Dataset.fingerprint, or None if it was not measured


CIFAR10 = Cifar("cifar10", {"label": 10}, "40b61ab6")
CIFAR100 = Cifar("cifar100", {"coarse_label": 20, "label": 100}, None)
SETS = {cifar.name: cifar for cifar in (CIFAR10, CIFAR100)}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find_tfds(path: pathlib.Path, name: str = "cifar10") -> pathlib.Path | None:
    """Return the newest prepared version in the tfds folder ``path``, ``path`` itself if it is one, or None."""
    if path.parent.name == name and (path / "dataset_info.json").is_file():
        return path
    versions = [info.parent for info in path.glob(f"{name}/*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]  # others are incomplete
    return max(versions, key=lambda version: [int(part) for part in version.name.split(".")], default=None)


def load_cifar(cifar: Cifar, folder: pathlib.Path | None = None) -> tuple[Arrays, tuple[str, ...]]:
    """Read a data set from a tfds version folder.

    Without ``folder``, it is the newest in $TFDS_DATA_DIR or ~/tensorflow_datasets, and is downloaded if missing.

    Returns:
        The arrays in ``ARRAYS``: images (size, 32, 32, 3) uint8 and labels (size,) int32. And the class names.

    Raises:
        UserError: the download fails, or the records are not array_record files, damaged or incomplete.
    """
    if folder is None:
        root = user_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
        folder = find_tfds(root, cifar.name) or _prepare(root, cifar)
    records = sorted(folder.glob("*.array_record*"))
    if not records:
        raise UserError(
            f"{folder} holds no array_record files (reading tfrecord files needs TensorFlow). To prepare it in "
            "another folder, set TFDS_DATA_DIR to it and leave dataset.data_dir unset"
        )
    # Decoding 60,000 PNGs takes about 10 s, so the arrays are kept for the next start, by the records' sizes and times.
    identity = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in records]
    cache = cache_folder() / f"{cifar.name}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.npz"
    try:
        arrays = read_npz(cache)
        names = arrays.pop("class_names")
    except Exception:  # missing, or damaged in any way: it is written again
        arrays, names = _decode(folder, cifar)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, class_names=names, **arrays)
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_whole(cache, content.getvalue())
        except OSError as error:
            tqdm.write(f"note: the images could not be kept in {cache.parent} ({error}), so the next start is as slow")
    return arrays, tuple(map(str, names))


def read_npz(path: pathlib.Path) -> Arrays:
    """Read the arrays in ``ARRAYS`` from a .npz file, and ``class_names`` if it has them, and verify their checksums.

    Raises:
        Exception: many types, if the file is damaged or holds something else.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in [*ARRAYS, "class_names"] if "class_names.npy" in archive.namelist() else ARRAYS:
            with archive.open(f"{name}.npy") as entry:
                try:
                    arrays[name] = np.lib.format.read_array(entry, allow_pickle=False)
                except ValueError as error:  # one of objects, for example, which could hold code
                    raise ValueError(f"{name}: {error}") from error
                # The checksum is verified only at the end of an entry, but np.load stops where the header says.
                if entry.read(1):
                    raise ValueError(f"{name} is longer than its header says")
    return arrays


def _decode(folder: pathlib.Path, cifar: Cifar) -> tuple[Arrays, np.ndarray]:
    # Imported here because it takes a second and cached arrays do not need it.
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    # features.json is not used, because its reader imports any module that the file names.
    labels = {name: tfds.features.ClassLabel(num_classes=count) for name, count in cifar.labels.items()}
    image = tfds.features.Image(shape=IMAGE_SHAPE)
    features = tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image, **labels})
    arrays: Arrays = {}
    try:
        for split, size in (("train", NUM_TRAIN), ("test", NUM_TEST)):
            images, targets = np.zeros((size, *IMAGE_SHAPE), np.uint8), np.full(size, -1, np.int32)
            with ArrayRecordDataSource(sorted(folder.glob(f"*-{split}.array_record*"))) as source:
                starts = range(0, len(source), 1000)  # read so many at once, because single reads are slow
                for start in tqdm(starts, f"decoding {cifar.name}'s {split} images, once", leave=False, disable=None):
                    for record in source.__getitems__(range(start, min(start + 1000, len(source)))):
                        example = features.deserialize_example_np(record)
                        index = int(example["id"].decode().removeprefix(f"{split}_"))  # of an id such as train_00042
                        images[index], targets[index] = example["image"], example["label"]
                if len(source) != size or targets.min() < 0:
                    raise ValueError(f"{split} holds {np.sum(targets >= 0):,} of {size:,} images")
            arrays |= {f"{split}_images": images, f"{split}_labels": targets}
        names = (folder / "label.labels.txt").read_text(encoding="utf-8").split()
        if len(names) != cifar.labels["label"]:
            raise ValueError(f"label.labels.txt holds {len(names)} class names")
    except Exception as error:  # array_record, protobuf and Pillow raise their own types
        raise UserError(
            f"{folder} cannot be read ({one_line(error)}). Delete the folder and prepare {cifar.name} again"
        ) from error
    return arrays, np.array(names)


def _prepare(root: pathlib.Path, cifar: Cifar) -> pathlib.Path:
    """Download a data set, write it below ``root`` as tfds does, and return its version folder.

    tfds itself encodes the images with TensorFlow. This subclass of its builder does that with Pillow, and leaves the
    splits, shuffling and metadata to tfds, so that any of its users can read the result.
    """
    # Imported here because they take a second and only a first run needs them.
    import tensorflow_datasets as tfds
    from PIL import Image

    original = getattr(tfds.image_classification, cifar.name.capitalize())

    class Builder(original, skip_registration=True):  # type: ignore[call-arg, misc, valid-type]
        name, __module__ = cifar.name, original.__module__  # dataset_info.json names them

        def _split_generators(self, dl_manager: Any) -> Any:
            return super()._split_generators(types.SimpleNamespace(download_and_extract=lambda url: extracted))

        def _generate_examples(self, split_prefix: str, filepaths: Iterator[str]) -> Iterator[Any]:
            content = b"".join(pathlib.Path(path).read_bytes() for path in filepaths)
            count = len(cifar.labels)
            records = np.frombuffer(content, np.uint8).reshape(-1, count + np.prod(IMAGE_SHAPE))
            for index, record in enumerate(records):
                png = io.BytesIO()
                image = record[count:].reshape(3, 32, 32).transpose(1, 2, 0)  # channel by channel in the archive
                Image.fromarray(np.ascontiguousarray(image)).save(png, "PNG")
                png.seek(0)
                labels = dict(zip(cifar.labels, record[:count].tolist(), strict=True))
                yield index, {"id": f"{split_prefix}{index:05d}", "image": png, **labels}

    try:
        root.mkdir(parents=True, exist_ok=True)
        builder = Builder(data_dir=root, file_format="array_record")
        url = builder._cifar_info.url
        archive = _download(url, original.url_infos[url].checksum)
        with tempfile.TemporaryDirectory(prefix=f"{cifar.name}-archive-", dir=root) as extracted:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(extracted, filter="data")
            builder.download_and_prepare(download_dir=extracted)
    except OSError as error:
        raise UserError(
            f"{cifar.name} could not be written to {root} ({error}); set TFDS_DATA_DIR to another folder"
        ) from error
    return pathlib.Path(builder.data_dir)


def _download(url: str, sha256: str) -> bytes:
    """Return the content of ``url``, or raise UserError if it cannot be reached or its hash is not ``sha256``."""
    content = io.BytesIO()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(response, "read", size, desc=f"downloading {url}") as stream:
                shutil.copyfileobj(stream, content)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"the data are not in $TFDS_DATA_DIR or ~/tensorflow_datasets, and {url} could not be downloaded "
            f"({getattr(error, 'reason', error)}). Start again with a network, set TFDS_DATA_DIR to a tfds folder that "
            "holds them as array_record, give --config.dataset.data_dir=.../cifar-10-batches-py or a .npz file, or "
            "try --config=quickstart, which needs no download"
        ) from error
    if hashlib.sha256(content.getbuffer()).hexdigest() != sha256:
        raise UserError(f"the file from {url} was cut short or changed on its way (its SHA-256 differs). Start again")
    return content.getvalue()
