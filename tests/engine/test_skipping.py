"""Updates left out on the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.training import LossSpikeConfig
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.skipping import describe_gradients, is_spike
from mlvlab_jax.engine.step import make_train_step
from mlvlab_jax.trees import compute_digest
from tests.conftest import tiny_config
from tests.engine.test_step import MODELS

SKIP = {"non_finite": {"policy": "skip"}, "ema_decay": 0.9}


def train(config, change):
    """State and scalars after six batches, each as `change` of its number and itself; one that is None is left out."""
    experiment = make_experiment(config)
    step = jax.jit(make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline))
    state, rows = experiment.state, []
    for number, batch in enumerate(train_stream(experiment.data.train, batch_size=16, num_steps=6, seed=0)):
        if (batch := change(number, batch)) is not None:
            state, scalars = step(state, jax.tree.map(jnp.asarray, batch))
            rows.append(jax.device_get(scalars))
    return state, rows


@pytest.mark.parametrize("model", ["cnn", "batch_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_skipped_batch_leaves_the_state_as_if_it_had_never_been_there(model, value):
    config = tiny_config(model=MODELS[model], training=SKIP)

    def spoil(number, batch):
        return batch | {"mask": batch["mask"] * np.float32(value)} if number in (2, 3) else batch

    state, rows = train(config, spoil)
    expected, _ = train(config, lambda number, batch: None if number in (2, 3) else batch)
    assert compute_digest(state) == compute_digest(expected)
    assert int(state.step) == 4
    assert [row["applied"] for row in rows] == [1, 1, 0, 0, 1, 1]
    num_params = len(jax.tree.leaves(state.variables.params))
    assert [row["num_bad_grads"] for row in rows] == [0, 0, num_params, num_params, 0, 0]


def test_without_anything_to_skip_the_state_is_that_of_a_run_that_never_would():
    state, _ = train(tiny_config(training=SKIP), lambda number, batch: batch)
    plain, rows = train(tiny_config(training={"ema_decay": 0.9}), lambda number, batch: batch)
    assert compute_digest(state) == compute_digest(plain)
    assert [row["applied"] for row in rows] == [1] * 6


def test_gradients_that_are_not_finite_are_counted_and_the_first_is_numbered():
    grads = {"a": jnp.ones(3), "b": jnp.asarray([1.0, jnp.nan]), "c": jnp.full((2, 2), 2.0), "d": jnp.asarray(jnp.inf)}
    found = describe_gradients(grads)
    assert (int(found["num_bad_grads"]), int(found["first_bad_grad"])) == (2, 1)
    sound = describe_gradients({"a": grads["a"], "c": grads["c"]})
    assert int(sound["num_bad_grads"]) == 0
    assert float(sound["grad_norm"]) == pytest.approx(np.sqrt(3 + 16))


def judge_all(losses, config):
    recent, found = jnp.full(config.window, jnp.nan), []
    for number, loss in enumerate(losses):
        if is_spike(jnp.float32(loss), recent, config):
            found.append(number)
        recent = jnp.append(recent[1:], jnp.float32(loss))
    return found


def test_a_spike_is_six_deviations_above_the_mean_of_the_window_by_numpy():
    rng, config = np.random.default_rng(0), LossSpikeConfig(sigmas=6.0, window=32)
    losses = (1.0 + 0.1 * rng.normal(size=200)).astype(np.float32)
    losses[[10, 60, 150]] *= 50  # the first comes before half a window
    losses[100] += 0.3  # large, and no spike
    expected = [n for n in range(16, 200) if losses[n] > (w := losses[max(0, n - 32) : n]).mean() + 6 * w.std(ddof=1)]
    assert judge_all(losses, config) == expected == [60, 150]


def test_a_loss_that_stays_high_is_taken_for_what_it_is_now():
    losses = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.1] * 4 + [9.0] * 30
    assert judge_all(losses, LossSpikeConfig(sigmas=4.0, window=32)) == [32, 33]


def test_a_spike_is_left_out_and_becomes_part_of_the_window():
    rules = {"loss_spikes": {"sigmas": 6.0, "window": 4}, "learning_rate": 1e-6}
    config = tiny_config(training=rules, model=MODELS["vit"])

    experiment = make_experiment(config)
    assert np.isnan(experiment.state.recent_losses).all()
    state, rows = train(config, lambda number, batch: batch)
    losses = [row["loss_sum"] / row["num_examples"] for row in rows]
    np.testing.assert_allclose(state.recent_losses, losses[-4:], rtol=1e-6)
    assert all(row["applied"] for row in rows)
    known = dataclasses.replace(state, recent_losses=jnp.full(4, 0.01))
    step = jax.jit(make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline))
    batch = next(train_stream(experiment.data.train, batch_size=16, num_steps=1, seed=0))
    after, scalars = step(known, jax.tree.map(jnp.asarray, batch))
    assert scalars["applied"] == 0
    assert compute_digest(after.variables) == compute_digest(state.variables)
    assert int(after.step) == int(state.step) == 6
    loss = scalars["loss_sum"] / scalars["num_examples"]
    np.testing.assert_allclose(after.recent_losses, [0.01, 0.01, 0.01, loss])
