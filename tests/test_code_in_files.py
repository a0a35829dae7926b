"""Files that try to execute code: every reader of pickles refuses them, and nothing is executed."""

import builtins
import os
import pickle
import shutil
import types

import numpy as np
import pytest

from jaxresnet.convert import read_torch_file
from jaxresnet.data import cifar
from jaxresnet.data.images import read_image
from jaxresnet.predict import read_files
from jaxresnet.system.errors import UserError
from tests.damage import FINGERPRINT_OF_FEW, REFUSED, Calls, batch_of, few_images, replace, write_batches, write_tfds
from tests.data.test_loading import load
from tests.test_convert import saved
from tests.torch_reference import needs_torch, torch

pytestmark = [pytest.mark.reliability, needs_torch]


PAYLOADS = {
    "os.mkdir": lambda marker: Calls(os.mkdir, marker),
    "os.system": lambda marker: Calls(os.system, f"mkdir {marker}"),
    "exec": lambda marker: Calls(builtins.exec, f"import os; os.mkdir({marker!r})"),
}
CONTAINERS = {
    "alone": lambda payload: payload,
    "the images": lambda payload: {b"data": payload, b"labels": [0]},
    "an entry that nobody reads": lambda payload: {b"data": np.zeros((1, 3072), np.uint8), b"x": payload},
    "nested": lambda payload: {b"data": np.zeros((1, 3072), np.uint8), "net": [({"a": [payload]},)]},
    "an array of objects": lambda payload: {b"data": np.array([[payload, None]], object)},
    "weights": lambda payload: {"net": {"conv1.weight": torch.zeros(1), "x": payload}},
}


@pytest.fixture(scope="module")
def pickled(tmp_path_factory):
    return write_batches(tmp_path_factory.mktemp("pytorch") / cifar.CIFAR10.archives[0].folder)


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    return write_tfds(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def marker(tmp_path):
    """Return the path of the folder that each payload would create. It must not exist at the end."""
    return str(tmp_path / "executed")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_run_where_nothing_stops_them(marker, payload):
    pickle.loads(pickle.dumps([PAYLOADS[payload](marker)]))
    assert os.path.isdir(marker)


def refuse(read, path, marker, count):
    with pytest.raises(UserError) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert not os.path.exists(marker)
    count(REFUSED)
    return str(raised.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_pickles_are_refused(pickled, tmp_path, marker, payload, container, protocol, capsys, count):
    content = pickle.dumps(CONTAINERS[container](PAYLOADS[payload](marker)), protocol=protocol)

    replace(pickled / "data_batch_3", content)
    with few_images():
        assert "data_batch_3: is not a batch" in refuse(load, pickled, marker, count)
    replace(pickled / "data_batch_3", batch_of("data_batch_3", 2))

    for name in ("images.pkl", "images", "images.png"):
        path = tmp_path / name
        path.write_bytes(content)
        assert list(read_files([path], 10, types.SimpleNamespace(total=1))) == []
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"skipped: {path}") and not os.path.exists(marker)
        count(REFUSED)
    refuse(read_image, tmp_path / "images.png", marker, count)

    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(content)
        refuse(read_torch_file, tmp_path / name, marker, count)

    (tmp_path / "data.npz").write_bytes(content)
    refuse(load, tmp_path / "data.npz", marker, count)


def torch_legacy(contents):
    return saved(contents, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [saved, torch_legacy])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_pytorch_files_are_refused(tmp_path, marker, payload, container, write, count):
    (tmp_path / "w.pth").write_bytes(write(CONTAINERS[container](PAYLOADS[payload](marker))))
    refuse(read_torch_file, tmp_path / "w.pth", marker, count)


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121", "2.9.1"])
def test_unsafe_pytorch_reads_no_file(tmp_path, monkeypatch, version):
    (tmp_path / "w.pth").write_bytes(saved({"a": torch.ones(1)}))
    monkeypatch.setattr(torch, "__version__", version)
    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("it was read"))
        read_torch_file(tmp_path / "w.pth")
    assert f"PyTorch {version} might run code" in str(error.value) and "torch>=2.10'" in str(error.value)


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_modules_named_by_tfds_are_not_imported(tfds_folder, tmp_path, marker, monkeypatch, file, count):
    """The reader of tfds imports the modules that features.json names, also from the current folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "named_by_a_file.py").write_text(f"import os\nos.mkdir({marker!r})\n")
    copy = shutil.copytree(tfds_folder, tmp_path / "cifar10" / tfds_folder.name)
    text = (copy / file).read_text()
    named = text.replace("tensorflow_datasets.core.features.text_feature.Text", "named_by_a_file.Text")
    named = named.replace("tensorflow_datasets.image_classification.cifar", "named_by_a_file")
    assert named != text
    (copy / file).write_text(named)
    with few_images():
        assert load(tmp_path).fingerprint() == FINGERPRINT_OF_FEW
    assert not os.path.exists(marker)
    count(REFUSED)
