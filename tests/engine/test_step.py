import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy.special import expit

from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.losses import LossForm, cross_entropy, is_correct, mixed_cross_entropy
from mlvlab_jax.engine.step import SCALARS, _accumulate, compile_train_step, describe_loss, make_train_step
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.trees import compute_digest
from tests.conftest import tiny_config

VIT = {"name": "vision_transformer", "params": {"hidden_size": 16, "num_heads": 4, "num_layers": 2, "patch_size": 4}}
MODELS = {
    "cnn": {"name": "cnn", "params": {"widths": [8, 16], "dropout": 0.2}},
    "batch_norm": {"name": "cnn", "params": {"widths": [8, 16], "norm": "batch"}},
    "vit": {**VIT, "params": VIT["params"] | {"dropout": 0.1, "stochastic_depth": 0.1}},
}


def train(config, num_steps, *, jit=True):
    """State and losses after some steps."""
    experiment = make_experiment(config)
    step = make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline)
    if jit:
        step = compile_train_step(step, experiment.layout, experiment.mesh)
    state, losses = experiment.state, []
    for batch in train_stream(
        experiment.data.train, batch_size=config.training.batch_size, num_steps=num_steps, seed=config.seed
    ):
        state, scalars = step(state, jax.tree.map(jnp.asarray, batch))
        scalars = dict(zip(SCALARS, scalars, strict=True)) if jit else scalars
        losses.append(float(scalars["loss_sum"] / scalars["num_examples"]))
    return state, losses


def test_jit_equals_eager():
    state, losses = train(tiny_config(), 2)
    eager, expected = train(tiny_config(), 2, jit=False)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.variables), jax.tree.leaves(eager.variables), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_two_runs_are_bitwise_equal_and_another_seed_is_not():
    digests = [compute_digest(train(tiny_config(seed=seed), 3)[0]) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_accumulation_with_batch_statistics_is_refused():
    config = tiny_config(model=MODELS["batch_norm"], training={"accumulation_steps": 2})
    with pytest.raises(ConfigError, match="batch statistics"):
        train(config, 1)


def test_what_a_schedule_free_rule_averages_is_evaluated():
    config = tiny_config(optimizer={"name": "schedule_free_adamw", "params": {"weight_decay": 0.1}})
    state, losses = train(config, 30)
    assert losses[-1] < losses[0]
    averaged = make_experiment(config).optimizer.averaged(state.opt_state, state.variables.params)
    for a, b in zip(jax.tree.leaves(state.evaluated.params), jax.tree.leaves(averaged), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    far = max(
        jnp.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (state.evaluated, state.variables)), strict=True)
    )
    assert far > 1e-4


def test_ema_is_the_documented_average():
    config = tiny_config(training={"ema_decay": 0.5})
    experiment = make_experiment(config)
    step = jax.jit(make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline))
    state, average = experiment.state, experiment.state.variables.params
    for i, batch in enumerate(train_stream(experiment.data.train, batch_size=16, num_steps=12, seed=0)):
        state, _ = step(state, jax.tree.map(jnp.asarray, batch))
        kept = min(0.5, (1 + i) / (10 + i))
        average = jax.tree.map(lambda a, p, k=kept: k * a + (1 - k) * p, average, state.variables.params)
    for a, b in zip(jax.tree.leaves(state.ema.params), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert state.evaluated is state.ema
    assert dataclasses.replace(state, ema=None).evaluated is state.variables


def test_cross_entropy_by_hand_and_by_finite_differences():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    label, mask = jnp.array([0, 1, 2, 0]), jnp.array([1.0, 1.0, 1.0, 0.0])
    for smoothing in (0.0, 0.1):
        target = optax.smooth_labels(jax.nn.one_hot(label, 3), smoothing)
        expected = -(np.asarray(target) * np.asarray(jax.nn.log_softmax(logits))).sum(1)[:3].sum()
        total, count = cross_entropy(logits, label, mask, LossForm(smoothing=smoothing))
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        assert count == 3
        check_grads(
            lambda x, s=smoothing: cross_entropy(jnp.asarray(x), label, mask, LossForm(smoothing=s))[0],
            (logits,),
            order=1,
            modes=["rev"],
        )


def test_mixed_examples_have_the_loss_of_soft_targets_and_count_as_their_heavier_label():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    label, other, mask = jnp.array([0, 1, 2, 0]), jnp.array([1, 1, 0, 2]), jnp.array([1.0, 1.0, 1.0, 0.0])
    weight = jnp.array([0.5, 0.6, 1.0, 0.7])
    examples = {"image": jnp.zeros((4, 1, 1, 1)), "label": label, "other_label": other, "label_weight": weight}
    model = Model(lambda key: Variables(logits, {}), lambda variables, *_: (variables.params, {}))
    for smoothing in (0.0, 0.1):
        rules = TrainingConfig(label_smoothing=smoothing)
        key = jax.random.key(0)
        grads, _, sums = _accumulate(model, rules, Variables(logits, {}), examples | {"mask": mask}, key)
        target = weight[:, None] * jax.nn.one_hot(label, 3) + (1 - weight[:, None]) * jax.nn.one_hot(other, 3)
        target = optax.smooth_labels(target, smoothing)
        values = optax.losses.softmax_cross_entropy(logits, target)
        np.testing.assert_allclose(sums["loss_sum"], np.asarray(values)[:3].sum(), rtol=1e-5)
        np.testing.assert_allclose(grads[:3], (jax.nn.softmax(logits) - target)[:3] / 3, atol=1e-6)
        assert sums["num_examples"] == 3
        assert sums["num_correct"] == (np.asarray(logits).argmax(1) == np.asarray(label))[:3].sum()


def test_several_labels_have_the_binary_cross_entropy_of_each_class():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    label, other = jnp.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], jnp.uint8), jnp.eye(4, 3, dtype=jnp.uint8)
    mask, weight = jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.array([0.5, 0.6, 1.0, 0.7])
    logits[1] = -1.0  # exactly none of the classes, as labelled
    for smoothing in (0.0, 0.1):

        def expected(target, s=smoothing):
            target = np.asarray(target) * (1 - s) + s / 2
            values = -(target * np.log(expit(logits)) + (1 - target) * np.log(1 - expit(logits)))
            return values.mean(1)[:3].sum()

        total, count = cross_entropy(jnp.asarray(logits), label, mask, LossForm(smoothing=smoothing))
        np.testing.assert_allclose(total, expected(label), rtol=1e-5)
        assert count == 3
        total, _ = mixed_cross_entropy(jnp.asarray(logits), label, other, weight, mask, LossForm(smoothing=smoothing))
        np.testing.assert_allclose(total, expected(weight[:, None] * label + (1 - weight[:, None]) * other), rtol=1e-5)
    assert is_correct(jnp.asarray(logits), label).tolist() == ((logits > 0) == np.asarray(label)).all(1).tolist()
    assert is_correct(jnp.asarray(logits), label)[1] == 1


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("binary", [False, True])
def test_focal_and_binary_losses_are_their_definitions(binary, smoothing, gamma):
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * 3
    label, mask = jnp.array([0, 1, 2, 0, 1]), jnp.array([1.0, 2.0, 0.5, 1.0, 0.0])
    target = np.asarray(jax.nn.one_hot(label, 3)) * (1 - smoothing) + smoothing / 3
    yes = expit(logits) if binary else np.asarray(jax.nn.softmax(logits))
    for exponent in (0.0, gamma):
        values = target * (1 - yes) ** exponent * np.log(yes)
        if binary:
            values = (values + (1 - target) * yes**exponent * np.log(1 - yes)) / 3
        form = LossForm(smoothing, binary, exponent)
        total, count = cross_entropy(jnp.asarray(logits), label, mask, form)
        np.testing.assert_allclose(total, -(values.sum(1) * mask).sum(), rtol=1e-5)
        assert count == 4.5
        check_grads(
            lambda x, f=form: cross_entropy(jnp.asarray(x), label, mask, f)[0],
            (jnp.asarray(logits),),
            order=1,
            modes=["rev"],
        )


@pytest.mark.parametrize("binary", [False, True])
def test_a_focal_loss_of_an_example_beyond_doubt_has_a_finite_gradient(binary):
    logits = jnp.asarray([[200.0, -200.0], [-200.0, 200.0]])

    def loss(x):
        return cross_entropy(x, jnp.array([0, 0]), jnp.ones(2), LossForm(binary=binary, gamma=0.5))[0]

    gradient = jax.grad(loss)(logits)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0]).max() == 0
    assert np.abs(gradient[1]).max() > 0.4


def test_a_run_trains_on_the_loss_it_is_configured_with():
    plain = tiny_config()
    for changes in ({"loss": "binary_cross_entropy"}, {"focal_gamma": 2.0}):
        _, losses = train(tiny_config(training=changes), 18)
        _, others = train(plain, 1)
        assert losses[0] < 0.9 * others[0]  # both count less than the plain one of as many classes
        assert losses[-1] < losses[0]


def test_bfloat16_keeps_float32_weights_and_learns():
    plain = {"augment": {"crop_padding": 0, "horizontal_flip": False}}
    model = {"params": {"dropout": 0.0}}
    state, losses = train(tiny_config(training={"precision": "bfloat16"}, pipeline=plain, model=model), 18)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.variables)} == {jnp.dtype("float32")}
    assert np.mean(losses[-3:]) < 0.9 * losses[0]


def test_what_a_loss_makes_of_its_labels_is_said():
    binary = tiny_config(training={"loss": "binary_cross_entropy"}).training
    (line,) = describe_loss(binary, multi_label=False)
    assert line.startswith("binary cross entropy of class numbers")
    assert describe_loss(binary, multi_label=True) == describe_loss(tiny_config().training, multi_label=False) == []
