"""Download of the official CIFAR-10 archive into tfds's layout, without TensorFlow.

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
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxresnet.datasets import cifar10
from jaxresnet.system.errors import UserError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
TIMEOUT_SECONDS = 10.0  # for each address that is tried, and for each read
CONNECT_SECONDS = 20.0  # for connecting, in total
FOLDER = "cifar-10-batches-bin"
RECORD_BYTES = 1 + 32 * 32 * 3

_Example = tuple[int, dict[str, Any]]  # index and features, as tfds expects them

WAYS_FORWARD = f"""\
  - with a network: start again to download {URL}
  - with a prepared copy: set TFDS_DATA_DIR to a tfds folder that holds cifar10 as array_record
  - with the batches that PyTorch uses: --config.dataset.data_dir=.../{cifar10.BATCHES_FOLDER}
  - with arrays: --config.dataset.data_dir=.../cifar10.npz (train_images, train_labels, test_images, test_labels)
  - without CIFAR-10: --config=configs/quickstart.py trains on images that need no download"""


def prepare(root: pathlib.Path) -> None:
    """Download CIFAR-10 and write it below ``root`` in tfds's layout.

    Raises:
        UserError: the download fails or takes longer than ``CONNECT_SECONDS`` to connect (the message lists
            alternatives), the archive's hash is not the official one, or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="cifar10-download-", dir=root) as folder:
            archive = pathlib.Path(folder) / "cifar-10-binary.tar.gz"
            _download(archive)
            _write_tfds(archive, root)
    except OSError as error:
        raise UserError(
            f"CIFAR-10 could not be written to {root} ({error}); set TFDS_DATA_DIR to another folder"
        ) from error


def _download(archive: pathlib.Path) -> None:
    digest = hashlib.sha256()
    try:
        with _connect() as response, archive.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc="downloading CIFAR-10", unit="B", unit_scale=True) as progress:
                while chunk := response.read(1 << 18):
                    file.write(chunk)
                    digest.update(chunk)
                    progress.update(len(chunk))
    except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"CIFAR-10 is not prepared and could not be downloaded ({reason}).\n{WAYS_FORWARD}") from error
    if digest.hexdigest() != SHA256:
        raise UserError(
            f"the archive from {URL} has sha256 {digest.hexdigest()}, expected {SHA256}: it was cut short or changed "
            "in transit. Start again"
        )


def _connect() -> http.client.HTTPResponse:
    """Open the archive's URL, or give up after ``CONNECT_SECONDS`` even if the name lookup hangs."""
    outcome: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()

    def connect() -> None:
        try:
            outcome.put(urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS))
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


def _write_tfds(archive: pathlib.Path, root: pathlib.Path) -> None:
    # Imported here because it takes a second and only this function needs it.
    import tensorflow_datasets as tfds
    from PIL import Image

    # The class must be called Cifar10: tfds derives the data set's name from it. tfds's type hints are incomplete.
    class Cifar10(tfds.image_classification.Cifar10, skip_registration=True):  # type: ignore[call-arg, misc]
        __module__ = tfds.image_classification.Cifar10.__module__  # recorded in dataset_info.json

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[_Example]]:
            with tarfile.open(archive) as tar:
                names = _read_member(tar, "batches.meta.txt").decode().split()
            self.info.features["label"].names = names
            return {
                "train": self._generate_examples("train_", cifar10.TRAIN_BATCHES),
                "test": self._generate_examples("test_", (cifar10.TEST_BATCH,)),
            }

        def _generate_examples(self, split_prefix: str, filepaths: tuple[str, ...]) -> Iterator[_Example]:
            for index, (image, label) in enumerate(_read_archive(archive, filepaths)):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                png.seek(0)
                yield index, {"id": f"{split_prefix}{index:05d}", "image": png, "label": label}

    Cifar10(data_dir=root, file_format="array_record").download_and_prepare(download_dir=archive.parent)


def _read_archive(archive: pathlib.Path, batches: tuple[str, ...]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield images (32, 32, 3) uint8 and labels of the named batches, in order."""
    height, width, channels = cifar10.IMAGE_SHAPE
    with tarfile.open(archive) as tar:
        for batch in batches:
            for record in np.frombuffer(_read_member(tar, f"{batch}.bin"), np.uint8).reshape(-1, RECORD_BYTES):
                image = record[1:].reshape(channels, height, width).transpose(1, 2, 0)
                yield np.ascontiguousarray(image), int(record[0])


def _read_member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"{FOLDER}/{name}")
    assert file is not None, name  # always a file, because the archive's hash was checked
    return file.read()
