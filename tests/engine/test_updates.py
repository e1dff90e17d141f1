"""Several updates a dispatch equal one bit for bit; programs are traced once, ahead of time; buffers are donated."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.data.source import ArraySource
from mlvlab_jax.engine import updates as updates_module
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.mesh import replicated
from mlvlab_jax.engine.progress import LateMetrics
from mlvlab_jax.engine.step import SCALARS
from mlvlab_jax.engine.telemetry import RATES
from mlvlab_jax.engine.updates import make_updates
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.trees import compute_digest
from tests.conftest import RecordingTracker, merge, tiny_config

NET = {"name": "cnn", "params": {"widths": [8], "convs_per_stage": 1, "dropout": 0.2}}
MIXING = {"augment": {"mixup": {"alpha": 0.8}}}
BASE = {
    "model": NET,
    "pipeline": MIXING,
    "training": {"num_epochs": 2, "accumulation_steps": 2, "ema_decay": 0.9},
    "tracking": {"log_every_steps": 4},
    "evaluation": {"every_epochs": 1.5},
}


def numbers(tracker):
    return [(step, {k: v for k, v in values.items() if k not in RATES}) for step, values in tracker.records]


def several(count, **changes):
    return tiny_config(**merge(merge(BASE, {"training": {"steps_per_dispatch": count}}), changes))


def record_sizes(monkeypatch):
    """Updates in each dispatch of the runs from now on."""
    sizes, call = [], updates_module.Held.__call__

    def noting(self, state, batch):
        sizes.append(len(batch["epoch"]))
        return call(self, state, batch)

    monkeypatch.setattr(updates_module.Held, "__call__", noting)
    return sizes


def test_several_updates_a_dispatch_equal_one_bitwise_and_resume_where_they_stopped(tmp_path, monkeypatch):
    # 9 steps, logs at 4 and 8, evaluations at 7 and 9: full dispatches end at 2, 4, 6 and 9, one goes to 7.
    sizes, one, two = record_sizes(monkeypatch), RecordingTracker(), RecordingTracker()
    plain = run(several(1), workdir=tmp_path / "one", tracker=one)
    assert sizes == []
    held = run(several(2), workdir=tmp_path / "two", tracker=two)
    assert sizes == [2, 2, 2, 1, 1, 1]
    assert compute_digest(held.state) == compute_digest(plain.state)
    assert numbers(two) == numbers(one)
    np.testing.assert_array_equal(two.shown["train/first_batch"], one.shown["train/first_batch"])
    cut = run(several(2), workdir=tmp_path / "cut", tracker=RecordingTracker(), stop_requested=lambda step: step >= 3)
    assert (cut.ended, cut.progress.step) == ("interrupted", 4)
    resumed = run(several(2), workdir=tmp_path / "cut", tracker=RecordingTracker())
    assert compute_digest(resumed.state) == compute_digest(plain.state)
    assert resumed.progress == plain.progress


def test_an_unreadable_example_is_replaced_as_in_the_stream(tmp_path, monkeypatch):
    changes = {"training": {"num_epochs": 1, "accumulation_steps": 1}, "pipeline": {"max_bad_fraction": 0.5}}
    fetch = ArraySource.fetch

    def with_bad(self, ids):
        image, label, _ = fetch(self, ids)
        bad = {at: "cut short" for at, index in enumerate(ids.tolist()) if len(self) == 80 and index in (3, 17, 40)}
        image[list(bad)] = 0
        return type(fetch(self, ids))(image, label, bad)

    monkeypatch.setattr(ArraySource, "fetch", with_bad)
    results = {
        count: run(several(count, **changes), workdir=tmp_path / f"{count}", tracker=RecordingTracker())
        for count in (1, 2)
    }
    assert compute_digest(results[1].state) == compute_digest(results[2].state)
    listed = [(tmp_path / f"{count}" / "quarantine.jsonl").read_text().splitlines() for count in (1, 2)]
    assert sorted(listed[0]) == sorted(listed[1])
    assert {json.loads(line)["example_id"] for line in listed[0]} <= {3, 17, 40}
    assert listed[0]


def test_weights_and_label_sets_reach_the_held_batch():
    experiment = make_experiment(several(2))
    split = experiment.data.train
    weights = np.linspace(0.5, 1.5, len(split.source)).astype(np.float32)
    sets = np.array([[1, 0, 1], [0, 1, 0]] * 5, np.uint8)
    split = dataclasses.replace(split, weights=weights, label_sets=sets)
    held, bad = updates_module.hold_split(split, replicated(experiment.mesh))
    image, label, _ = split.source.fetch(np.arange(len(split.source)))
    assert dict(bad) == {}
    np.testing.assert_array_equal(held["image"], image)
    np.testing.assert_array_equal(held["label"], sets[label])
    np.testing.assert_array_equal(held["mask"], weights)
    assert all(leaf.is_fully_replicated and leaf.sharding.num_devices == 8 for leaf in jax.tree.leaves(held))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pipeline": {"max_memory_mib": 0}}, r"2 updates a dispatch need .* take 0\.0 MiB, .*max_memory_mib allows 0"),
        ({"tracking": {"log_every_steps": 9}}, "do not divide tracking.log_every_steps, 9; .* 1 is the nearest"),
        (
            {
                "checkpoint": {"every_steps": 18},
                "training": {"steps_per_dispatch": 8},
                "tracking": {"log_every_steps": 24},
            },
            "8 updates a dispatch do not divide checkpoint.every_steps, 18; .* 6 is the nearest",
        ),
        ({"evaluation": {"every_epochs": 0.3}}, r"an evaluation every 1\.35; expected at most 1"),
    ],
)
def test_several_updates_that_cannot_be_are_refused_with_numbers(changes, expected, tmp_path):
    with pytest.raises(ConfigError, match=expected) as caught:
        run(several(2, **changes), workdir=tmp_path / "new", tracker=RecordingTracker())
    assert caught.value.path == "training.steps_per_dispatch"
    assert not (tmp_path / "new").exists()


def test_a_source_that_is_read_as_needed_is_refused(tmp_path, monkeypatch):
    init = ArraySource.__init__

    def not_resident(self, *arguments, **options):
        init(self, *arguments, **options)
        self.resident = False

    monkeypatch.setattr(ArraySource, "__init__", not_resident)
    with pytest.raises(ConfigError, match="need the training split on each device") as caught:
        run(several(2), workdir=tmp_path / "new", tracker=RecordingTracker())
    assert caught.value.exit_code == 64


def test_the_steps_of_a_dispatch_are_read_late_and_numbered():
    late, rows = LateMetrics(), np.arange(4 * len(SCALARS), dtype=np.float32).reshape(4, len(SCALARS))
    assert late.push(4, jnp.asarray(rows)) == []
    finished = late.push(8, jnp.asarray(rows))
    assert [step for step, _ in finished] == [1, 2, 3, 4]
    assert [list(scalars) for _, scalars in finished] == [list(SCALARS)] * 4
    assert [scalars["loss_sum"] for _, scalars in finished] == rows[:, 0].tolist()
    late.forget()
    assert late.drain() == []


@pytest.mark.parametrize(("count", "traces"), [(1, 1), (2, 3)])
def test_the_step_is_traced_once_a_program_in_a_whole_run(count, traces, tmp_path, monkeypatch):
    # A program of two updates on CPU holds the step twice, that of one once.
    counted, make = [], updates_module.make_train_step

    def counting(*arguments):
        step = make(*arguments)
        return lambda state, batch: (counted.append(1), step(state, batch))[1]

    monkeypatch.setattr(updates_module, "make_train_step", counting)
    run(several(count), workdir=tmp_path, tracker=RecordingTracker())
    assert len(counted) == traces


@pytest.mark.parametrize("count", [1, 2])
def test_the_states_buffers_are_donated_without_a_warning(count):
    experiment = make_experiment(several(count))
    updates = make_updates(several(count), experiment, on_bad=lambda found: None)
    batch, before = next(updates.batches(0)), jax.tree.leaves(experiment.state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state, scalars = updates(experiment.state, batch)
        jax.block_until_ready(state)
    assert all(leaf.is_deleted() for leaf in before)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))
    assert scalars.shape == ((len(SCALARS),) if count == 1 else (2, len(SCALARS)))
    assert int(state.step) == count
