import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig, PreprocessSpec
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.records import DecodedSource
from mlvlab_jax.data.sources.arrays import read_idx
from mlvlab_jax.data.sources.tfds import TfdsRecords
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, Spec
from tests.data.hostile import encode, red

TFDS = Path(__file__).parents[3] / "shared" / "data" / "tfds"
needs_tfds = pytest.mark.skipif(not TFDS.exists(), reason="no prepared Fashion-MNIST")


def open_source(name, pipeline=None, **params):
    spec = Spec(name, params_from(SOURCES.entry(name).params, params))
    pipeline = params_from(PipelineConfig, {"validation_fraction": 0.0} | (pipeline or {}))
    return open_data(spec, pipeline, seed=0)


def idx_bytes(array):
    codes = {"uint8": 8, "int8": 9}
    header = struct.pack(">BBBB", 0, 0, codes[array.dtype.name], array.ndim)
    return header + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 4, 4), np.uint8),
        "y_train": np.arange(12, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (6, 4, 4), np.uint8),
        "y_test": np.arange(6, dtype=np.uint8) % 3,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    folder = tmp_path / "idx"
    folder.mkdir()
    for split, stem in (("train", "train"), ("test", "t10k")):
        with gzip.open(folder / f"{stem}-images-idx3-ubyte.gz", "wb") as file:
            file.write(idx_bytes(arrays[f"x_{split}"]))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx_bytes(arrays[f"y_{split}"]))
    return tmp_path, arrays


def test_digits_are_the_1797_with_balanced_fixed_splits():
    data = open_source("digits")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1259, "validation": 179, "test": 359}
    assert data.spec == (8, 8, 1)
    assert data.class_names == tuple("0123456789")
    _, labels, _ = data.splits["test"].source.fetch(data.splits["test"].ids)
    assert np.bincount(labels).min() >= 34
    images, _, _ = data.train.source.fetch(data.train.ids)
    assert (images.min(), images.max()) == (0, 255)


@pytest.mark.parametrize("kind", ["a.npz", "idx"])
def test_npz_and_idx_give_the_same_arrays(arrays, kind):
    folder, expected = arrays
    data = open_source("arrays", path=str(folder / kind))
    for name in ("train", "test"):
        image, label, _ = data.splits[name].source.fetch(data.splits[name].ids)
        np.testing.assert_array_equal(image[..., 0], expected[f"x_{name}"])
        np.testing.assert_array_equal(label, expected[f"y_{name}"])
    assert data.class_names == ("0", "1", "2")


def test_holding_out_takes_each_example_once(arrays):
    data = open_source("arrays", path=str(arrays[0] / "a.npz"), pipeline={"validation_fraction": 0.25})
    train, held = data.splits["train"].ids, data.splits["validation"].ids
    assert (len(train), len(held)) == (9, 3)
    assert sorted([*train, *held]) == list(range(12))


def test_holding_out_everything_or_nothing_is_refused(arrays):
    with pytest.raises(DataError, match=r"leaves an empty split; change pipeline\.validation_fraction"):
        open_source("arrays", path=str(arrays[0] / "a.npz"), pipeline={"validation_fraction": 0.01})


def save(path, **changes):
    good = {"x_train": np.zeros((4, 2, 2), np.uint8), "y_train": np.array([0, 1, 0, 1])}
    good |= {"x_test": np.zeros((2, 2, 2), np.uint8), "y_test": np.array([0, 1])}
    np.savez(path, **{name: value for name, value in (good | changes).items() if value is not None})


BAD_ARRAYS = {
    "labels out of range": ({"y_test": np.array([0, 7])}, "1 labels out of range, first 7 at index 1; expected 0..1"),
    "negative label": ({"y_train": np.array([0, -1, 0, 1])}, "1 labels out of range, first -1 at index 1"),
    "empty split": (
        {"x_test": np.zeros((0, 2, 2), np.uint8), "y_test": np.zeros(0, np.int64)},
        "split 'test' is empty",
    ),
    "lengths differ": ({"y_train": np.array([0, 1])}, "4 images but 2 labels"),
    "float images": ({"x_train": np.zeros((4, 2, 2))}, "images are float64 .*; expected uint8"),
    "float labels": ({"y_train": np.array([0.0, 1, 0, 1])}, "labels are float64"),
    "shapes differ": ({"x_test": np.zeros((2, 3, 3), np.uint8)}, "splits differ in image shape"),
    "no training split": ({"x_train": None}, "expected x_train and y_train"),
    "pickled objects": ({"x_train": np.array([{}], dtype=object)}, "not an .npz of plain arrays"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_are_refused(name, tmp_path):
    changes, expected = BAD_ARRAYS[name]
    save(tmp_path / "a.npz", **changes)
    with pytest.raises(DataError, match=expected):
        open_source("arrays", path=str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\0\0\x08\x01\0\0\0\x09abc", "11 bytes; expected 17"), (b"PK\x03\x04", "expected an IDX header"), (b"", "IDX")],
)
def test_bad_idx_files_are_refused(content, expected, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        read_idx(path)


def test_missing_and_truncated_files_are_refused(arrays, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_source("arrays", path=str(tmp_path / "gone"))
    (tmp_path / "t.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="not an .npz"):
        open_source("arrays", path=str(tmp_path / "t.npz"))
    images = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:30])
    with pytest.raises(DataError, match="cannot be decompressed"):
        open_source("arrays", path=str(tmp_path / "idx"))
    images.unlink()
    with pytest.raises(DataError, match="holds neither train-images-idx3-ubyte"):
        open_source("arrays", path=str(tmp_path / "idx"))


def test_tfds_that_is_not_prepared_is_refused_with_the_command(tmp_path):
    with pytest.raises(DataError, match="tfds build fashion_mnist"):
        open_source("tfds", dataset="fashion_mnist", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="no_such_set"):
        open_source("tfds", dataset="no_such_set", data_dir=str(tmp_path))


def test_an_example_of_tfds_with_a_label_out_of_range_is_unreadable():
    class Stored(list):
        def __getitems__(self, ids):
            return [self[k] for k in ids]

    image = encode(red(), "PNG")
    records = TfdsRecords(Stored({"image": image, "label": k} for k in (2, -1, 3)), num_classes=3, place="set[test]")
    _, label, bad = DecodedSource(records, PreprocessSpec(size=(8, 8), channels=3)).fetch(np.arange(3))
    assert label.tolist() == [2, 0, 0]
    assert bad == {1: "unreadable: label -1; expected 0 to 2", 2: "unreadable: label 3; expected 0 to 2"}


@needs_tfds
def test_tfds_reads_the_same_from_memory_and_from_disk():
    data_dir = str(TFDS)
    common = {"dataset": "fashion_mnist", "data_dir": data_dir, "train_split": "test", "test_split": None}
    resident = open_source("tfds", **common)
    streamed = open_source("tfds", **common, pipeline={"max_memory_mib": 0})
    assert resident.class_names[9] == "Ankle boot"
    assert (len(resident.train), resident.spec) == (10_000, (28, 28, 1))
    _, labels, _ = resident.train.source.fetch(resident.train.ids)
    assert np.bincount(labels).tolist() == [1000] * 10
    for a, b in zip(
        *(train_stream(d.train, batch_size=64, num_steps=3, seed=1) for d in (resident, streamed)), strict=True
    ):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


@needs_tfds
def test_tfds_names_the_splits_there_are():
    with pytest.raises(DataError, match="nosplit"):
        open_source("tfds", dataset="fashion_mnist", data_dir=str(TFDS), train_split="nosplit")
