"""Download of the official archives into tfds's layout, without TensorFlow.

tfds itself unpacks the archive and encodes its images with TensorFlow. Here, a subclass of its builder reads the
archive and passes on encoded PNGs. The rest, such as shuffling and metadata, is tfds's own. Any tfds user can read the
result.
"""

import hashlib
import http.client
import io
import pathlib
import queue
import ssl
import tarfile
import tempfile
import threading
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxresnet.data.arrays import IMAGE_SHAPE
from jaxresnet.data.batches import BATCHES_FOLDER
from jaxresnet.data.cifar import Cifar
from jaxresnet.system.errors import UserError

TIMEOUT_SECONDS = 10.0  # for each address that is tried, and for each read
CONNECT_SECONDS = 20.0  # for connecting, in total

_Example = tuple[int, dict[str, Any]]  # index and features, as tfds expects them


def prepare(root: pathlib.Path, cifar: Cifar) -> None:
    """Download a data set and write it below ``root`` in tfds's layout.

    Raises:
        UserError: the download fails or takes longer than ``CONNECT_SECONDS`` to connect (the message lists
            alternatives), the archive's hash is not the official one, or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{cifar.name}-download-", dir=root) as folder:
            archive = pathlib.Path(folder) / "archive.tar.gz"
            _download(archive, cifar)
            _write_tfds(archive, root, cifar)
    except OSError as error:
        raise UserError(
            f"{cifar.title} could not be written to {root} ({error}); set TFDS_DATA_DIR to another folder"
        ) from error


def _download(archive: pathlib.Path, cifar: Cifar) -> None:
    digest = hashlib.sha256()
    try:
        with _connect(cifar.url) as response, archive.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc=f"downloading {cifar.title}", unit="B", unit_scale=True) as progress:
                while chunk := response.read(1 << 18):
                    file.write(chunk)
                    digest.update(chunk)
                    progress.update(len(chunk))
    except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{cifar.title} is not prepared and could not be downloaded ({reason}).\n{_ways_forward(cifar)}"
        ) from error
    if digest.hexdigest() != cifar.sha256:
        raise UserError(
            f"the archive from {cifar.url} has sha256 {digest.hexdigest()}, expected {cifar.sha256}: it was cut short "
            "or changed in transit. Start again"
        )


def _ways_forward(cifar: Cifar) -> str:
    ways = [
        f"with a network: start again to download {cifar.url}",
        f"with a prepared copy: set TFDS_DATA_DIR to a tfds folder that holds {cifar.name} as array_record",
        f"with arrays: --config.dataset.data_dir=.../{cifar.name}.npz (docs/training.md says which)",
        "without a download: --config=quickstart trains on images that need none",
    ]
    if cifar.name == "cifar10":
        ways.insert(2, f"with the batches that PyTorch uses: --config.dataset.data_dir=.../{BATCHES_FOLDER}")
    return "\n".join(f"  - {way}" for way in ways)


def _connect(url: str) -> http.client.HTTPResponse:
    """Open ``url``, or give up after ``CONNECT_SECONDS`` even if the name lookup hangs."""
    outcome: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()

    def connect() -> None:
        try:
            outcome.put(urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = outcome.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {CONNECT_SECONDS:.0f} s") from None
    if isinstance(response, Exception):
        raise response
    return response


def _write_tfds(archive: pathlib.Path, root: pathlib.Path, cifar: Cifar) -> None:
    # Imported here because it takes a second and only this function needs it.
    import tensorflow_datasets as tfds
    from PIL import Image

    class FromArchive:
        info: Any

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[_Example]]:
            with tarfile.open(archive) as tar:
                for label, file in cifar.class_names_files.items():
                    self.info.features[label].names = _read_member(tar, f"{cifar.folder}/{file}").decode().split()
            return {
                "train": self._generate_examples("train_", cifar.train_files),
                "test": self._generate_examples("test_", cifar.test_files),
            }

        def _generate_examples(self, split_prefix: str, filepaths: tuple[str, ...]) -> Iterator[_Example]:
            for index, (image, labels) in enumerate(_read_archive(archive, cifar, filepaths)):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                png.seek(0)
                yield index, {"id": f"{split_prefix}{index:05d}", "image": png, **labels}

    original = getattr(tfds.image_classification, cifar.name.capitalize())
    # tfds derives the data set's name from that of the class, and records its module in dataset_info.json.
    namespace = {"__module__": original.__module__}
    builder: Any = types.new_class(
        original.__name__, (FromArchive, original), {"skip_registration": True}, lambda body: body.update(namespace)
    )
    builder(data_dir=root, file_format="array_record").download_and_prepare(download_dir=archive.parent)


def _read_archive(
    archive: pathlib.Path, cifar: Cifar, files: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, dict[str, int]]]:
    """Yield images (32, 32, 3) uint8 and labels of the named files, in order."""
    height, width, channels = IMAGE_SHAPE
    labels = len(cifar.num_classes)
    with tarfile.open(archive) as tar:
        for file in files:
            content = np.frombuffer(_read_member(tar, f"{cifar.folder}/{file}"), np.uint8)
            for record in content.reshape(-1, labels + height * width * channels):
                image = record[labels:].reshape(channels, height, width).transpose(1, 2, 0)
                yield np.ascontiguousarray(image), dict(zip(cifar.num_classes, record[:labels].tolist(), strict=True))


def _read_member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name  # always a file, because the archive's hash was checked
    return file.read()
