import dataclasses
import functools
import json
import operator

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.order import Part, Split, order_epoch, permute
from mlvlab_jax.data.quarantine import Quarantine
from mlvlab_jax.data.records import DecodedSource, FileRecords
from mlvlab_jax.data.source import ArraySource
from mlvlab_jax.data.stream import Readers, Shard, eval_stream, train_stream
from mlvlab_jax.errors import DataError


@pytest.fixture
def split():
    image = np.arange(25, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    return Split("train", ArraySource(image, np.arange(25) % 5, place="test"), np.arange(25))


def ids(batches):
    return [batch["example_id"].tolist() for batch in batches]


def test_a_batch_is_a_function_of_seed_and_step(split):
    whole = list(train_stream(split, batch_size=8, num_steps=10, seed=3))
    tail = list(train_stream(split, batch_size=8, num_steps=10, seed=3, first_step=7, readers=Readers(1, 0, 1)))
    assert ids(whole)[7:] == ids(tail)
    assert ids(whole) != ids(train_stream(split, batch_size=8, num_steps=10, seed=4))
    for batch in whole:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["example_id"])
        np.testing.assert_array_equal(batch["label"], batch["example_id"] % 5)


def test_every_epoch_has_every_example_once_in_another_order(split):
    batches = list(train_stream(split, batch_size=8, num_steps=25, seed=0))
    seen = np.concatenate([batch["example_id"] for batch in batches])
    epochs = np.concatenate([batch["epoch"] for batch in batches])
    orders = [seen[epochs == epoch].tolist() for epoch in range(8)]
    assert all(sorted(order) == list(range(25)) for order in orders)
    assert len({tuple(order) for order in orders}) == 8


@pytest.mark.parametrize("parts", [None, (Part(np.arange(5), 10), Part(np.arange(5, 25), 15))])
def test_repeated_examples_follow_each_other_and_are_told_apart(split, parts):
    repeated = dataclasses.replace(split, repeats=3, parts=parts)
    seen = set()
    for epoch in range(4):
        ids, numbers = order_epoch(repeated, seed=0, epoch=epoch)
        assert len(ids) == 25
        groups = ids[:24].reshape(8, 3)
        assert (groups == groups[:, :1]).all()
        seen |= set(zip(ids.tolist(), numbers.tolist(), strict=True))
    assert len(seen) == 100
    once = dataclasses.replace(repeated, repeats=1)
    assert (
        order_epoch(once, seed=0, epoch=2)[0][:8].tolist() == order_epoch(repeated, seed=0, epoch=2)[0][:24:3].tolist()
    )


@pytest.mark.parametrize("count", [2, 4, 8])
def test_shards_put_together_are_the_unsharded_batch(split, count):
    whole = ids(train_stream(split, batch_size=8, num_steps=5, seed=1))
    parts = [ids(train_stream(split, batch_size=8, num_steps=5, seed=1, shard=Shard(i, count))) for i in range(count)]
    assert [functools.reduce(operator.iadd, (part[t] for part in parts), []) for t in range(5)] == whole


@pytest.mark.parametrize("batch_size", [4, 8, 25, 32])
def test_evaluation_meets_every_example_once(split, batch_size):
    batches = list(eval_stream(split, batch_size=batch_size))
    assert all(len(batch["label"]) == batch_size for batch in batches)
    seen = np.concatenate([batch["example_id"][batch["mask"] == 1] for batch in batches])
    assert seen.tolist() == list(range(25))


def test_orders_stay_what_they_were():
    # Golden: a change here changes every run ever recorded.
    assert permute(10, seed=0, epoch=0).tolist() == GOLDEN


GOLDEN = [0, 7, 8, 6, 9, 5, 1, 3, 2, 4]


BAD = (3, 11, 12)


@pytest.fixture
def files(tmp_path):
    """25 image files in one grey value each; three of them hold no image when `spoil` was called."""
    for k in range(25):
        Image.new("L", (4, 4), 10 * k).save(tmp_path / f"{k}.png")
    records = FileRecords(tmp_path, [f"{k}.png" for k in range(25)], np.arange(25) % 5)
    return tmp_path, Split("train", DecodedSource(records, PreprocessSpec(size=(4, 4), channels=1)), np.arange(25))


def spoil(folder):
    for k in BAD:
        (folder / f"{k}.png").write_bytes(b"<html>no image</html>")


def read(split, **changes):
    bad = []
    options = {"batch_size": 8, "num_steps": 12, "seed": 5, "on_bad": bad.extend} | changes
    return list(train_stream(split, **options)), bad


def test_unreadable_examples_are_replaced_and_the_others_stay_where_they_were(files):
    folder, split = files
    good, _ = read(split)
    spoil(folder)
    spoiled, bad = read(split)
    before, after = (np.array(ids(batches)) for batches in (good, spoiled))
    was_bad = np.isin(before, BAD)
    np.testing.assert_array_equal(after[~was_bad], before[~was_bad])
    assert was_bad.sum() >= 9
    assert not np.isin(after, BAD).any()
    assert (
        len({tuple(row) for row in zip(before[was_bad], after[was_bad], strict=True)}) > 3
    )  # not always the same stand-in
    assert {example.example_id for example in bad} == set(BAD)
    for batch in spoiled:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], 10 * batch["example_id"])
        np.testing.assert_array_equal(batch["label"], batch["example_id"] % 5)


@pytest.mark.parametrize("readers", [Readers(1, 0, 1), Readers(4, 0, 2), Readers(2, 2, 4)], ids=str)
def test_readers_do_not_decide_what_is_read(files, readers):
    folder, split = files
    spoil(folder)
    expected, expected_bad = read(split)
    got, bad = read(split, readers=readers)
    assert bad == expected_bad
    for a, b in zip(got, expected, strict=True):
        assert all((a[name] == b[name]).all() for name in a)


def test_going_on_at_any_step_reads_the_same(files):
    folder, split = files
    spoil(folder)
    whole, _ = read(split, num_steps=40)
    for step in np.random.default_rng(0).permutation(40)[:20].tolist():
        tail, _ = read(split, num_steps=40, first_step=step)
        assert ids(tail) == ids(whole[step:])


def test_unreadable_examples_are_masked_in_evaluation(files):
    folder, split = files
    spoil(folder)
    bad = []
    batches = list(eval_stream(split, batch_size=8, on_bad=bad.extend))
    seen = np.concatenate([batch["example_id"][batch["mask"] == 1] for batch in batches])
    assert seen.tolist() == [k for k in range(25) if k not in BAD]
    assert [example.name for example in bad] == [str(folder / f"{k}.png") for k in BAD]


def test_a_split_of_nothing_but_rubbish_ends_with_its_files(files):
    folder, split = files
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"could not be read either.*\n.*png: empty"):
        read(split)


def test_quarantine_writes_each_example_once_and_stops_past_its_share(files, tmp_path):
    folder, split = files
    spoil(folder)
    path = tmp_path / "quarantine.jsonl"
    for _ in range(2):  # as after a resume
        quarantine = Quarantine(path, sizes={"train": 25}, max_bad_fraction=0.12)
        read(split, on_bad=quarantine.add)
        assert quarantine.num_bad == 3
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["example_id"] for row in rows) == list(BAD)
    with pytest.raises(DataError, match=r"3 of 25 examples of split 'train' are unreadable.*\n.*<html") as error:
        read(split, on_bad=Quarantine(None, sizes={"train": 25}, max_bad_fraction=0.11).add)
    assert "3.png" in str(error.value)


def test_without_a_quarantine_the_first_unreadable_file_stops(files):
    folder, split = files
    spoil(folder)
    with pytest.raises(DataError, match=r"png: format: starts with"):
        list(train_stream(split, batch_size=8, num_steps=12, seed=5))


def test_each_part_of_a_mixture_gives_its_share_and_meets_its_examples_equally_often(split):
    mixed = Split("train", split.source, np.arange(25), (Part(np.arange(20), 8), Part(np.arange(20, 25), 12)))
    epochs = [order_epoch(mixed, seed=1, epoch=e) for e in range(10)]
    for ids_, _ in epochs:
        assert (ids_ < 20).sum() == 8
        assert (ids_ >= 20).sum() == 12
    together = np.concatenate([ids_ for ids_, _ in epochs])
    assert np.bincount(together).tolist() == [4] * 20 + [24] * 5
    pairs = [pair for ids_, seen in epochs for pair in zip(ids_.tolist(), seen.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs)  # no example twice in one pass, so no crop twice


def test_holding_out_of_a_mixture_keeps_the_shares(split):
    mixed = Split("train", split.source, np.arange(25), (Part(np.arange(20), 20), Part(np.arange(20, 25), 30)))
    kept = mixed.subset("train", np.setdiff1d(np.arange(25), [0, 1, 2, 3, 20]))
    assert [(len(part.ids), part.count) for part in kept.parts] == [(16, 16), (4, 24)]


def test_weights_travel_in_the_mask(split):
    weighted = Split("train", split.source, np.arange(25), weights=np.arange(25, dtype=np.float32))
    for batch in train_stream(weighted, batch_size=8, num_steps=4, seed=0):
        np.testing.assert_array_equal(batch["mask"], batch["example_id"])
