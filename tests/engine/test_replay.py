"""A step made again is the step that was made: state, batch, numbers."""

import json
import shutil

import jax
import pytest

from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.origin import Origin, find_origin, find_way, read_windows
from mlvlab_jax.engine.progress import Progress
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.engine.replay import is_equal, read_batch, replay
from mlvlab_jax.tracking.jsonl import JsonlTracker
from mlvlab_jax.trees import compute_digest
from tests.conftest import merge
from tests.engine.test_updates import several

# Dropout, mixing, an average and pieces of a batch are on; every evaluation but the first two lowers the rate.
CHANGES = {
    "training": {"num_epochs": 3},
    "schedule": {"name": "plateau", "params": {"patience": 1, "min_delta": 9.0}},
    "evaluation": {"every_epochs": 0.5},
    "checkpoint": {"every_steps": 1, "keep_last": 99},
}
CONFIG = several(1, **CHANGES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 14 steps with a checkpoint of each, and records of steps 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("run")
    run(CONFIG, workdir=folder, tracker=JsonlTracker(folder / "metrics.jsonl"))
    return folder


def digest_of(folder, step, experiment):
    mode = CONFIG.training.early_stopping.mode
    with CheckpointStore(folder / "checkpoints", CONFIG.checkpoint, mode=mode, read_only=True) as store:
        state, _ = store.restore(step, experiment.state, experiment.layout)
    return compute_digest(state)


@pytest.mark.parametrize(("count", "step"), [(1, 1), (1, 11), (2, 2), (2, 12), (1, 14)])
def test_from_the_initial_state_every_step_begins_and_ends_as_it_did(count, step, finished):
    config = several(count, **{**CHANGES, "checkpoint": {}})
    experiment, records = make_experiment(config), read_windows(finished)
    assert sorted(records) == [4, 8, 12]
    rates = [records[number]["train/learning_rate"] for number in sorted(records)]
    assert rates[0] > rates[1] > rates[2]  # so evaluations on the way are seen
    expected = digest_of(finished, step - 1, experiment) if step > 1 else compute_digest(experiment.state)
    replayed = replay(config, experiment, Origin(experiment.state, Progress()), step=step, records=records)
    assert compute_digest(replayed.before) == expected
    assert (replayed.first, replayed.last) == (0, step if step > 12 else -(-step // 4) * 4)
    batch, placed = read_batch(config, experiment, step=step)
    assert replayed.example_id.tolist() == batch["example_id"].tolist()
    assert jax.device_get(placed["example_id"]).tolist() == batch["example_id"].tolist()
    if step > 12:
        assert (dict(replayed.logged), dict(replayed.found)) == ({}, {})
        return
    names = ["train/loss", "train/accuracy", "train/grad_norm", "train/learning_rate"]
    assert dict(replayed.found) == {name: records[replayed.last][name] for name in names} == dict(replayed.logged)
    assert replayed.equal


@pytest.mark.parametrize("saved", [5, 7])
def test_from_a_checkpoint_inside_a_window_the_open_window_is_gone_on_with(saved, finished):
    experiment, records = make_experiment(CONFIG), read_windows(finished)
    origin = find_origin(finished, CONFIG, experiment, step=saved + 1, note=pytest.fail)
    assert origin.progress.step == saved
    replayed = replay(CONFIG, experiment, origin, step=saved + 1, records=records)
    assert (replayed.first, replayed.last) == (saved, 8)
    assert replayed.equal
    assert len(replayed.logged) == 4


def test_a_number_that_differs_in_its_last_bit_is_not_equal(finished):
    experiment, records = make_experiment(CONFIG), read_windows(finished)
    assert is_equal(float("nan"), float("nan"))
    assert not is_equal(float("nan"), 1.0)
    for name in ("train/loss", "train/grad_norm"):
        changed = {4: {**records[4], name: records[4][name] * (1 + 2**-52)}}
        origin = find_origin(finished, CONFIG, experiment, step=4, note=pytest.fail)
        replayed = replay(CONFIG, experiment, origin, step=4, records=changed)
        assert not replayed.equal
        assert replayed.found[name] == records[4][name]


def test_after_a_return_the_steps_left_out_change_nothing(tmp_path, plan_faults):
    # Step 6 has no loss: the run goes back, and the record of step 4, which it made before, stays where it is.
    changes = {"training": {"non_finite": {"policy": "rollback"}}, "checkpoint": {"every_steps": 3}}
    config = several(1, **merge(CHANGES | {"evaluation": {"every_epochs": 1.5}}, changes))
    plan_faults("batch:6=do:nan")
    result = run(config, workdir=tmp_path, tracker=JsonlTracker(tmp_path / "metrics.jsonl"))
    assert (result.progress.step, result.progress.skipped) == (14, (4, 5, 6))
    records = read_windows(tmp_path)
    plan_faults("")
    for saved in list_steps(tmp_path / "checkpoints")[:-1]:
        shutil.rmtree(tmp_path / "checkpoints" / str(saved))
    last = {2: (4, set()), 5: (5, set()), 8: (8, {4, 5, 6}), 12: (12, {4, 5, 6})}
    for count, step in ((1, 2), (1, 5), (1, 8), (2, 8), (1, 12)):
        asked = several(count, **merge(CHANGES | {"evaluation": {"every_epochs": 1.5}}, changes | {"checkpoint": {}}))
        experiment = make_experiment(asked)
        way, left_out = find_way(tmp_path, asked, step=step, records=records)
        origin = Origin(experiment.state, Progress())
        replayed = replay(asked, experiment, origin, step=step, records=way, left_out=left_out)
        assert (replayed.last, left_out) == last[step]
        assert len(replayed.logged) == (0 if step == 5 else 4)  # no record was made of 5 before the run went back
        assert replayed.equal, (count, step)


def test_records_are_those_of_training_without_what_is_torn(tmp_path):
    assert read_windows(tmp_path) == {}
    lines = [{"step": 3, "train/loss": 1.5}, {"step": 4, "validation/loss": 2.0}, [1], {"train/loss": 1.0}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 6, "train/lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert read_windows(tmp_path) == {3: lines[0]}
