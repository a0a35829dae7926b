"""Data sets and pickles of any types, shapes, counts and contents are refused or read correctly."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxresnet.data.batches import load_pickle
from jaxresnet.system.errors import UserError
from tests.damage import DAMAGED, FINGERPRINT_OF_FEW, few_images, read_or_refuse, write_tfds
from tests.data.test_loading import load, small_arrays

pytestmark = pytest.mark.reliability


def assert_a_data_set(dataset, num_classes=10):
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == (32, 32, 3)
        assert split.labels.dtype == np.int32 and split.labels.shape == (len(split.images),) and len(split) > 0
        assert split.labels.min() >= 0 and split.labels.max() < num_classes


# .npz files.


def npz_bytes(save=np.savez, **arrays):
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


NPZ = small_arrays(train=4, test=2)


DTYPES = st.sampled_from(["u1", "i1", "<i2", ">i4", "<i8", "<u8", "f2", "f8", "c8", "?", "S3", "U2", "M8[s]", "m8[s]"])
COUNTS = st.integers(0, 4)


@given(data=st.data())
def test_npz_of_any_arrays(data, tmp_path_factory, count):
    arrays = {}
    for split in ("train", "test"):
        shape = data.draw(
            st.tuples(COUNTS, st.just(32), st.just(32), st.just(3)) | st.lists(COUNTS | st.just(32), max_size=5)
        )
        arrays[f"{split}_images"] = np.zeros(shape, data.draw(st.just("u1") | DTYPES))
        labels = data.draw(st.lists(st.integers(-2, 300), max_size=4) | st.just([3] * (shape[0] if shape else 1)))
        arrays[f"{split}_labels"] = np.array(labels, np.int64).astype(data.draw(st.just("<i8") | DTYPES))
    path = tmp_path_factory.getbasetemp() / "any.npz"
    np.savez(path, **arrays)
    dataset = read_or_refuse(load, path)
    if dataset:
        assert_a_data_set(dataset)
        for split in ("train", "test"):
            np.testing.assert_array_equal(getattr(dataset, split).labels, arrays[f"{split}_labels"])
    count(DAMAGED)


# Pickles: CIFAR-10's batches, and those of courses.


PLAIN = st.none() | st.integers(-3, 12) | st.floats() | st.text(max_size=3) | st.binary(max_size=3) | st.just(2**70)
ARRAY = st.builds(
    lambda shape, dtype: np.zeros(shape, dtype),
    st.tuples(COUNTS, st.just(3072)) | st.tuples(COUNTS) | st.lists(COUNTS, max_size=3),
    DTYPES,
)
LIST = st.lists(PLAIN, max_size=4) | st.lists(st.integers(0, 12), max_size=4) | st.tuples(PLAIN, PLAIN)


@given(
    batch=st.dictionaries(st.sampled_from([b"data", "data", b"labels", b"ids", "x", 1]), PLAIN | ARRAY | LIST | ARRAY),
    protocol=st.integers(0, 5),
)
def test_pickles_of_anything(batch, protocol, tmp_path_factory, count):
    path = tmp_path_factory.getbasetemp() / "anything.pkl"
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    read = read_or_refuse(load_pickle, path)
    if read:
        images, labels, ids = read
        assert images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3) and len(images) > 0
        if labels is not None:
            assert labels.shape == (len(images),) and labels.dtype.kind in "iu" and labels.min() >= 0
        assert ids is None or [type(name) for name in ids] == [str] * len(images)
    count(DAMAGED)


# tfds's folders.


def test_caches_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "jaxresnet").write_text("a file in the place of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with few_images():
        assert load(write_tfds(tmp_path)).fingerprint() == FINGERPRINT_OF_FEW


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file" / "root"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"could not be written to .*; set TFDS_DATA_DIR"):
        load()
