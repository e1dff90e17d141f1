"""Loss and gradient of each example, against the step's own loss differentiated with one example counted at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.losses import LossForm, cross_entropy, mixed_cross_entropy
from mlvlab_jax.engine.per_example import PerExample, find_not_finite, measure_examples, see_examples
from mlvlab_jax.engine.replay import read_batch
from mlvlab_jax.engine.step import make_dropout_key, make_examples
from tests.conftest import merge, tiny_config
from tests.engine.test_step import MODELS

NET = {"name": "cnn", "params": {"widths": [4, 8], "convs_per_stage": 1}}
MIXED = {"augment": {"crop_padding": 1, "mixup": {"alpha": 0.8}}}
CASES = {
    "everything": {
        "model": {"params": {"dropout": 0.2}},
        "pipeline": MIXED,
        "training": {"label_smoothing": 0.1, "accumulation_steps": 2},
    },
    "batch statistics": {"model": {"params": {"norm": "batch"}}},
    "vit": {"model": MODELS["vit"]},
}


@pytest.fixture(autouse=True)
def one_device(on_devices):
    on_devices(1)


def small(**changes):
    return tiny_config(**merge({"model": NET, "mesh": {"data": 1}}, changes))


def make_oracle(config, experiment, batch):
    """(piece, weights) -> the piece's loss with these weights, and the norm of its gradient."""
    state, num_pieces = experiment.state, config.training.accumulation_steps
    examples = make_examples(state.key, batch, config.pipeline)
    pieces = [jax.tree.map(lambda x, i=i: x[i::num_pieces], examples) for i in range(num_pieces)]

    def loss(params, piece, key, weights):
        logits, _ = experiment.model.apply(state.variables._replace(params=params), piece["image"], key, True)
        if "other_label" not in piece:
            return cross_entropy(logits, piece["label"], weights, LossForm(smoothing=0.0))[0]
        labels = [piece[name] for name in ("label", "other_label", "label_weight")]
        return mixed_cross_entropy(logits, *labels, weights, LossForm(smoothing=config.training.label_smoothing))[0]

    differentiate = jax.jit(jax.value_and_grad(loss))

    def measure(piece, weights):
        key = jax.random.fold_in(make_dropout_key(state), piece)
        value, grads = differentiate(state.variables.params, pieces[piece], key, weights)
        return float(value), float(optax.tree.norm(grads))

    return measure


@pytest.mark.parametrize("name", ["everything", "batch statistics", pytest.param("vit", marks=pytest.mark.slow)])
def test_each_example_has_the_loss_and_gradient_of_its_share_of_the_batch(name):
    config = small(**CASES[name])
    experiment = make_experiment(config)
    _, batch = read_batch(config, experiment, step=2)
    measured = measure_examples(experiment.model, config, experiment.state, batch)
    measure, num_pieces = make_oracle(config, experiment, batch), config.training.accumulation_steps
    for index in range(16):
        weights = jnp.zeros(16 // num_pieces).at[index // num_pieces].set(1)
        expected = measure(index % num_pieces, weights)
        np.testing.assert_allclose([measured.loss[index], measured.grad_norm[index]], expected, rtol=1e-4)
    total = sum(measure(piece, jnp.ones(16 // num_pieces))[0] for piece in range(num_pieces))
    np.testing.assert_allclose(measured.loss.sum(), total, rtol=1e-5)


def test_what_is_not_finite_comes_first_and_then_the_largest_gradient():
    loss, grad_norm = [1.0, np.nan, 2.0, 3.0, 5.0], [4.0, np.nan, np.inf, 4.0, 1.0]
    assert PerExample(np.float32(loss), np.float32(grad_norm)).rank().tolist() == [1, 2, 3, 0, 4]


def test_the_first_thing_that_is_not_finite_is_named_in_forward_order():
    config = small(training={"accumulation_steps": 2})
    experiment = make_experiment(config)
    state, (_, batch) = experiment.state, read_batch(config, experiment, step=1)
    model = experiment.model
    assert find_not_finite(model, config, state, batch) == ([], [], [])
    lost = batch | {"mask": batch["mask"].at[jnp.array([3, 10])].set(jnp.inf)}
    found = find_not_finite(model, config, state, lost)
    assert (found.params, found.examples) == ([], [3, 10])
    names = found.gradients
    assert (names[0], names[-1]) == ("stage0_0/kernel", "head/bias")
    assert measure_examples(model, config, state, lost).rank()[:2].tolist() == [3, 10]
    bias = state.variables.params["head"]["bias"]
    state.variables.params["head"]["bias"] = bias.at[0].set(jnp.nan)
    found = find_not_finite(model, config, state, batch)
    assert found.params == ["head/bias"]
    assert found.examples == list(range(16))


def test_what_is_seen_is_what_the_network_is_given_in_pixels():
    plain = small(pipeline={"augment": {"crop_padding": 0, "horizontal_flip": False}})
    experiment = make_experiment(plain)
    host, batch = read_batch(plain, experiment, step=1)
    seen = see_examples(plain, experiment.state, batch, num_classes=10)
    np.testing.assert_array_equal(seen.image, host["image"])
    np.testing.assert_array_equal(seen.target, np.eye(10)[host["label"]])
    mixed = small(pipeline={"augment": {"mixup": {"alpha": 0.8}, "crop_padding": 0, "horizontal_flip": False}})
    seen = see_examples(mixed, experiment.state, batch, num_classes=10)
    before = np.roll(host["image"], 1, axis=0).astype(float)
    own = host["image"].astype(float)
    share = ((seen.image - before) * (own - before)).sum((1, 2, 3)) / ((own - before) ** 2).sum((1, 2, 3))
    labels = np.eye(10)[host["label"]]
    expected = share[:, None] * labels + (1 - share[:, None]) * np.roll(labels, 1, axis=0)
    np.testing.assert_allclose(seen.target, expected, atol=0.01)
    assert (seen.target.max(1) < 0.99).any()
