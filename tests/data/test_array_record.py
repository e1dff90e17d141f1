import json
import pickle

import numpy as np
import pytest

from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.pack import pack
from mlvlab_jax.data.stream import Readers, train_stream
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.plugins import SOURCES
from tests.data.test_pack import photo, pipeline_of, save, small_shards, spec_of

__all__ = ["small_shards"]


@pytest.fixture
def packed(tmp_path):
    pack(
        spec_of("synthetic", num_train=40, num_test=6, height=8, width=8, channels=1),
        pipeline_of(),
        folder=tmp_path / "p",
    )
    return tmp_path / "p"


def open_packed(folder, **pipeline):
    return open_data(spec_of("array_record", path=str(folder)), pipeline_of(**pipeline), seed=0)


def edit_index(folder, change):
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


def set_value(*path, value):
    def change(index):
        for key in path[:-1]:
            index = index[key]
        index[path[-1]] = value

    return lambda folder: edit_index(folder, change)


SHARD = "train-00000-of-00001.arrayrecord"
BAD_PACKS = {
    "no index": (lambda p: (p / "index.json").unlink(), r"index\.json: No such file.*mlvlab pack --out"),
    "not JSON": (lambda p: (p / "index.json").write_text("{"), r"index\.json: not JSON: .*pack again"),
    "other JSON": (
        lambda p: (p / "index.json").write_text("[]"),
        r"index\.json: format and version are None; expected",
    ),
    "other version": (
        set_value("head", "version", value=9),
        r"are \('mlvlab_jax\.pack', 9\); expected .* 1\); pack again",
    ),
    "field missing": (set_value("head", "class_names", value=3), r"index\.json: head\.class_names: .*restore the file"),
    "raw without shape": (set_value("head", "image", value=None), "raw pixels without their image shape"),
    "no training split": (lambda p: edit_index(p, lambda i: i["splits"].pop("train")), r"\['test'\]; expected 'train'"),
    "shard missing": (lambda p: (p / SHARD).unlink(), rf"{SHARD}: listed in index\.json, but there is no such file"),
    "shard cut short": (lambda p: (p / SHARD).write_bytes(b"x" * 9), rf"{SHARD}: 9 bytes; expected \d+; copy it again"),
    "shard elsewhere": (
        set_value("splits", "train", "shards", 0, "file", value="../x"),
        r"x: listed in index\.json, but there is no such file",
    ),
    "counts differ": (
        set_value("splits", "train", "shards", 0, "num_examples", value=39),
        "split 'train' says 40 examples, its table 40, its shards 39",
    ),
}


@pytest.mark.parametrize("name", BAD_PACKS)
def test_a_broken_pack_is_refused_in_words(packed, name):
    break_it, expected = BAD_PACKS[name]
    break_it(packed)
    with pytest.raises(DataError, match=expected):
        open_packed(packed)


def rewrite_table(folder, **changes):
    path = folder / "train-index.npz"
    np.savez(path, **(dict(np.load(path).items()) | changes))
    set_value("splits", "train", "table", "num_bytes", value=path.stat().st_size)(folder)


BAD_TABLES = {
    "too short": ({"ids": np.arange(39)}, "columns of .*'ids': 39.* rows; expected 40"),
    "names too short": ({"names": np.array([b"a"])}, "columns of .*'names': 1.* rows; expected 40"),
    "label out of range": ({"labels": np.full(40, 10)}, "labels beyond the 10 classes"),
    "pickled": ({"labels": np.array([{}], dtype=object)}, "not a table of examples"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_does_not_fit_is_refused(packed, name):
    changes, expected = BAD_TABLES[name]
    rewrite_table(packed, **changes)
    with pytest.raises(DataError, match=rf"train-index\.npz: {expected}"):
        open_packed(packed)


def test_an_empty_split_is_refused(packed):
    empty = {name: column[:0] for name, column in np.load(packed / "test-index.npz").items()}
    np.savez(packed / "test-index.npz", **empty)

    def change(index):
        split = index["splits"]["test"]
        split["table"]["num_bytes"] = (packed / "test-index.npz").stat().st_size
        split["num_examples"] = split["table"]["num_examples"] = split["shards"][0]["num_examples"] = 0

    edit_index(packed, change)
    with pytest.raises(DataError, match="split 'test' is empty"):
        open_packed(packed)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"size": [4, 4]}, "size"),
        ({"channels": 3}, "channels"),
        ({"resize": "pad"}, "resize"),
        ({"filter": "box"}, "filter"),
    ],
)
def test_raw_pixels_of_another_preprocessing_are_refused(packed, asked, path):
    with pytest.raises(ConfigError, match="'array_record' were stored with .*pack the data again") as caught:
        open_packed(packed, preprocess=asked)
    assert caught.value.path == f"pipeline.preprocess.{path}"


def test_records_come_in_the_order_asked_for_across_shards(tmp_path, small_shards):
    source = spec_of("synthetic", num_train=200, num_test=6, height=8, width=8, channels=1)
    index = pack(source, pipeline_of(), folder=tmp_path / "p")
    assert len(index.splits["train"].shards) == 4
    packed = SOURCES.build(spec_of("array_record", path=str(tmp_path / "p"))).splits["train"]
    ids = np.array([199, 3, 3, 60, 0, 120, 199])
    expected = SOURCES.build(source).splits["train"].fetch(ids)
    for reader in (packed, pickle.loads(pickle.dumps(packed))):  # noqa: S301 - as worker processes do
        image, label, bad = reader.fetch(ids)
        np.testing.assert_array_equal(image, expected.image)
        np.testing.assert_array_equal(label, expected.label)
        assert (label.dtype, image.flags.writeable, dict(bad)) == (np.int32, True, {})


def corrupt_record(folder, index):
    """Overwrites the stored bytes of one training example."""
    packed = SOURCES.build(spec_of("array_record", path=str(folder))).splits["train"]
    stored = packed.fetch(np.array([index])).image.tobytes()
    data = (folder / SHARD).read_bytes()
    assert data.count(stored) == 1
    (folder / SHARD).write_bytes(data.replace(stored, bytes(len(stored))))


@pytest.mark.parametrize("max_memory_mib", [0, 64])
def test_a_broken_record_is_replaced_and_named(packed, max_memory_mib):
    corrupt_record(packed, 7)
    data = open_packed(packed, max_memory_mib=max_memory_mib)
    image, _, bad = data.train.source.fetch(np.array([6, 7, 8]))
    assert list(bad) == [1]
    assert SHARD in bad[1]
    assert "mlvlab pack --verify" in bad[1]
    assert image[0].any()
    found = []
    batches = list(train_stream(data.train, batch_size=10, num_steps=4, seed=0, on_bad=found.extend))
    assert [example.example_id for example in found] == [7]
    assert found[0].name.endswith("[train][7] (7 in the source)")
    assert 7 not in np.concatenate([batch["example_id"] for batch in batches])


def test_a_broken_record_of_a_file_pack_has_a_problem(tmp_path):
    for k in range(3):
        save(tmp_path / "photos" / "ab"[k % 2] / f"{k}.jpg", photo(k, (30, 30)))
    pack(spec_of("image_folder", path=str(tmp_path / "photos")), pipeline_of(), folder=tmp_path / "p")
    stored = (tmp_path / "photos" / "a" / "2.jpg").read_bytes()
    shard = tmp_path / "p" / SHARD
    shard.write_bytes(shard.read_bytes().replace(stored, bytes(len(stored))))
    data = open_packed(tmp_path / "p", preprocess={"size": [8, 8]})
    _, label, bad = data.train.source.fetch(np.arange(3))
    assert list(bad) == [1]
    assert bad[1].startswith("unreadable: train-00000")
    assert label.tolist() == [0, 0, 1]


def test_worker_processes_read_a_pack(packed):
    data = open_packed(packed, max_memory_mib=0)
    here, there = (
        list(train_stream(data.train, batch_size=8, num_steps=3, seed=1, readers=readers))
        for readers in (Readers(), Readers(num_processes=1))
    )
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_weights_travel_with_their_examples(tmp_path):
    rows = ["path,label,weight"]
    for k in range(6):
        save(tmp_path / f"{k}.png", photo(k, (9, 9)))
        rows.append(f"{k}.png,{'ab'[k % 2]},{k}")
    (tmp_path / "2.png").write_bytes(b"text")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    source = spec_of("manifest", path=str(tmp_path / "m.csv"), weight_column="weight")
    pack(source, pipeline_of(max_bad_fraction=0.5), folder=tmp_path / "p")
    opened = SOURCES.build(spec_of("array_record", path=str(tmp_path / "p")))
    assert opened.weights["train"].tolist() == [0, 1, 3, 4, 5]


def mixture_of(*folders):
    return spec_of("mixture", parts=[{"source": {"name": "array_record", "params": {"path": str(f)}}} for f in folders])


def test_packs_can_be_mixed_where_their_pixels_were_made_alike(packed, tmp_path):
    data = open_data(mixture_of(packed, packed), pipeline_of(max_memory_mib=0), seed=0)
    assert (len(data.train), data.train.source.resident, data.spec) == (80, False, (8, 8, 1))
    with pytest.raises(ConfigError, match="were stored with"):
        open_data(mixture_of(packed, packed), pipeline_of(preprocess={"resize": "pad"}), seed=0)
    pack(spec_of("digits"), pipeline_of(preprocess={"resize": "pad"}), folder=tmp_path / "q")
    with pytest.raises(DataError, match="pixels were stored with different preprocessing"):
        SOURCES.build(mixture_of(packed, tmp_path / "q"))
    with pytest.raises(ConfigError, match="'mixture' mixes others; pack each of them, and mix the packs"):
        pack(mixture_of(packed), pipeline_of(), folder=tmp_path / "r")
