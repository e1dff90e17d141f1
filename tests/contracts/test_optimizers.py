"""Every registered optimiser and schedule, by its example."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import EvaluationConfig
from mlvlab_jax.config.training import LoraConfig, TrainingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.optim.chain import make_optimizer
from mlvlab_jax.optim.horizon import Horizon
from mlvlab_jax.plugins import OPTIMIZERS, SCHEDULES, Spec

HORIZON = Horizon(num_steps=100, steps_per_epoch=10.0, steps_per_eval=10)
RNG = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": jnp.asarray(RNG.normal(size=(3, 3, 2, 4)), jnp.float32)},
    "dense": {"kernel": jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32), "bias": jnp.ones(6)},
    "head": {"kernel": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)},
}


def make(optimizer="adamw", schedule="constant", *, lr=0.2, clip=None, schedule_params=None, **params):
    training = TrainingConfig(learning_rate=lr, gradient_clip_norm=clip)
    return make_optimizer(
        Spec(optimizer, params_from(OPTIMIZERS.entry(optimizer).params, params)),
        Spec(schedule, params_from(SCHEDULES.entry(schedule).params, schedule_params or {})),
        training,
        HORIZON,
    )


def loss(params):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_optimisers_converge_without_changing_state_tree_or_recompiling(name):
    tx = make(name, schedule="linear").tx
    state, params, traces = tx.init(PARAMS), PARAMS, []

    @jax.jit
    def update(params, state):
        traces.append(1)
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for _ in range(100):
        params, state = update(params, state)
    assert loss(params) < 0.05 * loss(PARAMS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
    assert len(traces) == 1


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_weight_decay_spares_biases_and_only_them(name):
    tx = make(name, weight_decay=0.5).tx
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zero, tx.init(PARAMS), PARAMS)
    assert jnp.abs(updates["dense"]["bias"]).max() == 0
    for layer in ("conv", "dense", "head"):
        assert (updates[layer]["kernel"] * PARAMS[layer]["kernel"]).max() < 0


def test_a_parameter_no_decay_rule_covers_is_refused():
    with pytest.raises(ConfigError, match="no rule matches parameter 'conv/kernel'"):
        make(decay_rules=[["bias", False]]).tx.init(PARAMS)


def test_clipping_bounds_the_gradient_the_rule_sees():
    tx = make("sgd", lr=1.0, clip=1.0, momentum=0.0, nesterov=False).tx
    updates, _ = tx.update(jax.tree.map(lambda x: 1e3 * x, PARAMS), tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(updates), 1.0, rtol=1e-5)


def factors(name, **params):
    schedule = SCHEDULES.build(Spec(name, params_from(SCHEDULES.entry(name).params, params)), horizon=HORIZON)
    return np.array([schedule.factor(jnp.int32(step)) for step in range(101)])


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_schedules_stay_between_0_and_1_and_warm_up_linearly(name):
    values = factors(name, warmup_epochs=2)
    assert values.min() >= 0
    assert values.max() <= 1.0
    np.testing.assert_allclose(values[:20], np.arange(1, 21) / 20, rtol=1e-6)


def test_schedules_against_hand_numbers():
    steps = np.arange(101)
    np.testing.assert_allclose(factors("constant"), 1)
    np.testing.assert_allclose(factors("cosine"), 0.5 * (1 + np.cos(np.pi * steps / 100)), atol=1e-6)
    np.testing.assert_allclose(factors("linear", final_factor=0.2), 1 - 0.8 * steps / 100, rtol=1e-5)
    np.testing.assert_allclose(factors("wsd", decay_fraction=0.2), np.minimum(1, (100 - steps) / 20), atol=1e-6)
    cooled = np.minimum(1, (100 - steps) / 10)
    np.testing.assert_allclose(factors("rsqrt", timescale_epochs=1), (1 + steps / 10) ** -0.5 * cooled, atol=1e-6)


def test_the_last_update_of_a_warmed_up_schedule_ends_near_zero():
    for name in ("cosine", "linear", "wsd", "rsqrt"):
        assert factors(name, warmup_epochs=2)[99] < 0.11, name
        assert factors(name, warmup_epochs=2)[100] < 1e-6, name


def test_plateau_lowers_the_rate_as_torch_documents_it():
    # By hand: patience 2 and min_delta 0.1; losses 1.0 (best), 0.95 (no), 0.95 (no -> lowered), 0.5 (best), 0.5, 0.5 -> lowered.
    optimizer = make("sgd", "plateau", lr=1.0, schedule_params={"patience": 2, "min_delta": 0.1, "reduction": 0.5})
    state, rates = optimizer.tx.init(PARAMS), []
    for value in (1.0, 0.95, 0.95, 0.5, 0.5, 0.5):
        state = optimizer.observe(state, jnp.float32(value))
        rates.append(float(optimizer.learning_rate(0, state)))
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    zero_momentum = make("sgd", "plateau", lr=1.0, momentum=0.0, nesterov=False)
    updates, _ = zero_momentum.tx.update(PARAMS, (*zero_momentum.tx.init(PARAMS)[:-1], state[-1]), PARAMS)
    np.testing.assert_allclose(updates["dense"]["bias"], -0.25)


def test_epochs_become_steps_in_one_place():
    training = TrainingConfig(batch_size=32, num_epochs=2.5)
    horizon = Horizon.of(training, EvaluationConfig(every_epochs=0.5), 100)
    assert (horizon.num_steps, horizon.steps(1.0)) == (8, 3)
    assert [step for step in range(1, 9) if horizon.eval_due(step)] == [2, 4, 5, 7, 8]


def test_the_last_regular_evaluation_falls_on_the_last_step():
    horizon = Horizon.of(TrainingConfig(batch_size=256, num_epochs=10), EvaluationConfig(every_epochs=1), 57_000)
    assert [step for step in range(horizon.num_steps - 4, horizon.num_steps + 1) if horizon.eval_due(step)] == [2227]


STACKED = {
    "head": PARAMS["head"],
    "stacked_blocks": {
        "kernel": jnp.stack([PARAMS["dense"]["kernel"], 3 * PARAMS["dense"]["kernel"][::-1]]),
        "bias": jnp.ones((2, 6)),
    },
}


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_stacked_layers_are_updated_as_each_alone(name):
    def unstack(tree):
        blocks = {f"block{i}": jax.tree.map(lambda leaf: leaf[i], tree["stacked_blocks"]) for i in range(2)}  # noqa: B023
        return {"head": tree["head"], **blocks}

    tx = make(name, weight_decay=0.1).tx
    gradient = jax.tree.map(lambda x: x**2 - 0.3, STACKED)
    together, _ = tx.update(gradient, tx.init(STACKED), STACKED)
    alone, _ = tx.update(unstack(gradient), tx.init(unstack(STACKED)), unstack(STACKED))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), unstack(together), alone)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_a_bfloat16_first_moment_takes_half_its_memory_and_leaves_the_rest(name):
    def num_bytes(**params):
        state = make(name, **params).tx.init(PARAMS)
        by_type = {"float32": 0, "bfloat16": 0}
        for leaf in jax.tree.leaves(state):
            if leaf.dtype.name in by_type:
                by_type[leaf.dtype.name] += leaf.size * leaf.dtype.itemsize
        return by_type

    size = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    whole, halved = num_bytes(), num_bytes(mu_dtype="bfloat16")
    assert (whole["bfloat16"], halved["bfloat16"]) == (0, 2 * size)
    assert whole["float32"] - halved["float32"] == 4 * size
    updates, _ = make(name, mu_dtype="bfloat16").tx.update(
        PARAMS, make(name, mu_dtype="bfloat16").tx.init(PARAMS), PARAMS
    )
    exact, _ = make(name).tx.update(PARAMS, make(name).tx.init(PARAMS), PARAMS)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"float32"}
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02 * np.abs(b).max())


def test_lamb_is_that_of_optax():
    ours, theirs = (
        make("lamb", weight_decay=0.1, lr=0.2).tx,
        optax.lamb(lambda _: 0.2, weight_decay=0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)),
    )
    updates, state = ours.update(PARAMS, ours.init(PARAMS), PARAMS)
    expected, their_state = theirs.update(PARAMS, theirs.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [leaf.shape for leaf in jax.tree.leaves(their_state)]


def test_schedule_free_weights_are_the_average_of_the_fast_ones():
    optimizer = make("schedule_free_adamw", lr=0.01, schedule_params={"warmup_epochs": 0.3}, b1=0.8)
    state, params, fast = optimizer.tx.init(PARAMS), PARAMS, []
    for step in range(6):
        updates, state = optimizer.tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        # Each counts as the square of the largest rate so far; the rate of update k + 1 weighs what update k has made.
        fast.append((min(1, (step + 2) / 3) ** 2, optax.tree.get(state, "z")))
    total = sum(weight for weight, _ in fast)
    mean = jax.tree.map(
        lambda *leaves: sum(w * z for (w, _), z in zip(fast, leaves, strict=True)) / total, *(z for _, z in fast)
    )
    averaged = optimizer.averaged(state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), averaged, mean)
    trained = jax.tree.map(lambda x, z: 0.8 * x + 0.2 * z, averaged, fast[-1][1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params, trained)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ema_decay": 0.9}, "training.ema_decay"),
        ({"layer_decay": 0.7, "lora": LoraConfig()}, "training.lora, training.layer_decay"),
    ],
)
def test_schedule_free_goes_with_no_other_average(changes, named):
    spec = Spec("schedule_free_adamw", params_from(OPTIMIZERS.entry("schedule_free_adamw").params, {}))
    constant = Spec("constant", params_from(SCHEDULES.entry("constant").params, {}))
    with pytest.raises(ConfigError, match=f"by itself, which {named} would spoil") as refused:
        make_optimizer(spec, constant, TrainingConfig(**changes), HORIZON)
    assert refused.value.path == "optimizer.name"
    with pytest.raises(ConfigError, match="which schedule.name: plateau would spoil"):
        make("schedule_free_adamw", "plateau")
