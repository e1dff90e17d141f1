"""Runs that meet numbers that are none: they end, leave the batch out, or go back; nothing of the kind is saved."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.guard import Guard
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.progress import Progress, StepScalars
from mlvlab_jax.engine.step import SCALARS
from mlvlab_jax.errors import NonFiniteError
from mlvlab_jax.trees import compute_digest, map_with_name
from tests.conftest import RecordingTracker, tiny_config

MODEL = {"name": "cnn", "params": {"widths": [4], "dropout": 0.2}}
SPIKES = {"window": 16, "sigmas": 6.0}


def make_config(policy, **training):
    """18 steps, saved after each 6."""
    rules = {"ema_decay": 0.9, "non_finite": {"policy": policy, "max_in_a_row": 2}}
    return tiny_config(
        model=MODEL,
        training=rules | training,
        evaluation={"every_epochs": 10},
        checkpoint={"every_steps": 6},
        tracking={"log_every_steps": 2},
    )


def saved_steps(folder, config):
    with CheckpointStore(folder / "checkpoints", config.checkpoint, mode="min") as store:
        return store.steps()


def test_a_run_that_loses_its_loss_ends_and_says_where_and_how_to_look(tmp_path, plan_faults):
    plan_faults("batch:9=do:nan")
    config, tracker = make_config("abort"), RecordingTracker()
    with pytest.raises(NonFiniteError) as caught:
        run(config, workdir=tmp_path, tracker=tracker)
    num = len(jax.tree.leaves(make_experiment(config).state.variables.params))
    expected = (
        f"step 9: the loss is nan, and the gradients of {num} of {num} parameters are not finite, first head/bias"
    )
    assert expected in str(caught.value)
    assert f"mlvlab replay --workdir {tmp_path} --step 9 --per-example" in str(caught.value)
    assert (caught.value.exit_code, caught.value.step) == (77, 9)
    assert saved_steps(tmp_path, config) == [6]
    assert all(np.isfinite(value) for _, values in tracker.records for value in values.values())
    assert max(step for step, _ in tracker.records) == 8


def test_a_skipped_batch_is_named_and_in_no_number(tmp_path, plan_faults):
    plan_faults("batch:9=do:nan,batch:12=do:nan")
    config, tracker = make_config("skip"), RecordingTracker()
    result = run(config, workdir=tmp_path, tracker=tracker)
    assert (result.ended, result.progress.step, int(result.state.step)) == ("finished", 18, 16)
    assert result.summary["skipped_steps"] == [9, 12]
    assert all(np.isfinite(value) for _, values in tracker.records for value in values.values())
    skipped = {step: values["train/skipped"] for step, values in tracker.records if "train/skipped" in values}
    assert (skipped[8], skipped[10], skipped[12], skipped[18]) == (0, 1, 2, 2)
    told = [line for line in tracker.notes if "left out (1 of at most 2 in a row)" in line]
    assert [line.split(":")[0] for line in told] == ["step 9", "step 12"]


def test_too_many_skipped_in_a_row_end_the_run(tmp_path, plan_faults):
    plan_faults("batch:8=do:nan,batch:9=do:nan,batch:10=do:nan")
    config = make_config("skip")
    with pytest.raises(NonFiniteError, match=r"step 10: .* \(3 in a row, at most 2 are left out\)"):
        run(config, workdir=tmp_path, tracker=RecordingTracker())
    assert saved_steps(tmp_path, config) == [6]


@pytest.mark.parametrize("stop_at", [8, 13])
def test_a_run_with_skipped_steps_goes_on_bit_for_bit(stop_at, tmp_path, plan_faults):
    plan_faults("batch:7=do:nan,batch:15=do:nan")
    config = make_config("skip", loss_spikes={"window": 4, "sigmas": 50.0})
    whole = run(config, workdir=tmp_path / "whole", tracker=RecordingTracker())
    cut = run(config, workdir=tmp_path / "cut", tracker=RecordingTracker(), stop_requested=lambda step: step == stop_at)
    assert cut.ended == "interrupted"
    resumed = run(config, workdir=tmp_path / "cut", tracker=RecordingTracker())
    assert compute_digest(resumed.state) == compute_digest(whole.state)
    assert resumed.progress == whole.progress
    assert resumed.progress.skipped == (7, 15)


def test_going_back_leaves_out_the_batches_since_the_last_checkpoint(tmp_path, plan_faults):
    plan_faults("batch:9=do:nan")
    config, tracker = make_config("rollback"), RecordingTracker()
    result = run(config, workdir=tmp_path / "back", tracker=tracker)
    assert (result.ended, result.progress.step, int(result.state.step)) == ("finished", 18, 15)
    assert result.summary["skipped_steps"] == [7, 8, 9]
    assert any("back to step 6, leaving out the batches of steps 7 to 9" in line for line in tracker.notes)
    # The same as leaving those three out one by one.
    plan_faults("batch:7=do:nan,batch:8=do:nan,batch:9=do:nan")
    skipping = make_config("skip", non_finite={"policy": "skip", "max_in_a_row": 3})
    skipped = run(skipping, workdir=tmp_path / "skip", tracker=RecordingTracker())
    assert compute_digest(skipped.state) == compute_digest(result.state)


def test_a_run_that_was_stopped_after_going_back_goes_on_bit_for_bit(tmp_path, plan_faults):
    plan_faults("batch:9=do:nan")
    config = make_config("rollback")
    whole = run(config, workdir=tmp_path / "whole", tracker=RecordingTracker())
    run(config, workdir=tmp_path / "cut", tracker=RecordingTracker(), stop_requested=lambda step: step == 11)
    resumed = run(config, workdir=tmp_path / "cut", tracker=RecordingTracker())
    assert compute_digest(resumed.state) == compute_digest(whole.state)
    assert resumed.progress == whole.progress


def test_there_is_no_going_back_without_a_checkpoint_or_for_ever(tmp_path, plan_faults):
    plan_faults("batch:3=do:nan")
    with pytest.raises(NonFiniteError, match="step 3: the loss is nan"):
        run(make_config("rollback"), workdir=tmp_path / "early", tracker=RecordingTracker())
    plan_faults("batch:8=do:nan,batch:9=do:nan,batch:10=do:nan")
    tracker = RecordingTracker()
    with pytest.raises(NonFiniteError, match="step 10: the loss is nan"):
        run(make_config("rollback"), workdir=tmp_path / "often", tracker=tracker)
    assert sum("back to step 6" in line for line in tracker.notes) == 2


def test_a_run_that_ended_goes_on_with_another_policy(tmp_path, plan_faults):
    plan_faults("batch:9=do:nan")
    with pytest.raises(NonFiniteError):
        run(make_config("abort"), workdir=tmp_path, tracker=RecordingTracker())
    assert run(make_config("skip"), workdir=tmp_path, tracker=RecordingTracker()).ended == "finished"


def test_wrong_labels_make_a_spike_and_the_very_step_is_left_out(tmp_path, plan_faults):
    plan_faults("batch:110=do:labels,batch:150=do:labels")
    rules = {"loss_spikes": SPIKES, "num_epochs": 120, "learning_rate": 0.02, "batch_size": 48}
    config = tiny_config(model={**MODEL, "params": {"widths": [4]}}, training=rules, evaluation={"every_epochs": 99})
    result = run(config, workdir=tmp_path, tracker=RecordingTracker())
    assert result.summary["skipped_steps"] == [110, 150]


def make_guard(config, state, mesh, notes):
    return Guard(config, state, mesh, workdir="RUN", note=notes.append)


def test_a_state_with_a_weight_that_is_not_finite_is_not_saved(tmp_path):
    config = make_config("abort")
    experiment = make_experiment(config)
    guard = make_guard(config, experiment.state, experiment.mesh, [])
    guard.check_state(experiment.state, step=4)

    def spoil(name, leaf):
        return leaf.at[0].set(jnp.inf) if name == "params/head/bias" else leaf

    spoiled = dataclasses.replace(experiment.state, ema=map_with_name(spoil, experiment.state.ema))
    with pytest.raises(
        NonFiniteError, match="step 4: 1 arrays of the state are not finite, first ema/params/head/bias"
    ):
        guard.check_state(spoiled, step=4)


def test_an_overflowing_norm_of_finite_gradients_is_not_finite_either(tmp_path):
    config = make_config("abort")
    experiment = make_experiment(config)
    guard = make_guard(config, experiment.state, experiment.mesh, [])
    good = dict.fromkeys(SCALARS, 1.0) | {"num_bad_grads": 0.0}
    assert guard.judge(Progress(), [StepScalars(1, good)]) == Progress()
    with pytest.raises(NonFiniteError, match="step 2: the loss is 1 and the norm of the gradient inf"):
        guard.judge(Progress(), [StepScalars(2, good | {"grad_norm": np.inf})])


def test_progress_keeps_what_was_left_out():
    progress = Progress(step=9, skipped=(3, 7))
    assert Progress.from_tree(json.loads(json.dumps(progress.to_tree()))) == progress
