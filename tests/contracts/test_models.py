"""Every registered model, by its example."""

import inspect
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.engine.mesh import make_mesh
from mlvlab_jax.engine.sharding import shard_params
from mlvlab_jax.models.nets.api import Model, Variables, from_linen
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.trees import compute_digest, named_leaves
from mlvlab_jax.types import ImageSpec

IMAGE = ImageSpec(16, 16, 3)
KEY = jax.random.key(0)


def build(name, dtype=jnp.float32, **changes):
    entry = MODELS.entry(name)
    params = params_from(entry.params, entry.example | changes)
    model = MODELS.build(Spec(name, params), num_classes=5, image=IMAGE, dtype=dtype)
    return Model(jax.jit(model.init), jax.jit(model.apply, static_argnums=3))


def perturbed(model):
    """Variables with no zeros left of initialisation, so that every path carries gradient."""
    variables, rng = model.init(KEY), np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), variables.params)
    return Variables(noisy, variables.state)


def batch(count=4):
    return jax.random.normal(jax.random.key(1), (count, *IMAGE))


@pytest.fixture(params=MODELS.names())
def name(request):
    return request.param


def test_init_is_deterministic_and_float32(name):
    model = build(name, dtype=jnp.bfloat16)
    assert compute_digest(model.init(KEY)) == compute_digest(model.init(KEY))
    assert compute_digest(model.init(KEY)) != compute_digest(model.init(jax.random.key(1)))
    assert {leaf.dtype for leaf in jax.tree.leaves(model.init(KEY))} == {np.dtype("float32")}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_float32_and_close_in_both_precisions(name, dtype):
    variables = perturbed(build(name))
    logits, state = build(name, dtype=dtype).apply(variables, batch(), KEY, False)
    assert (logits.shape, logits.dtype) == ((4, 5), jnp.float32)
    exact, _ = build(name).apply(variables, batch(), KEY, False)
    assert jnp.abs(logits - exact).max() < 0.1 * jnp.abs(exact).max()
    assert compute_digest(state) == compute_digest(variables.state)


def test_a_forward_pass_gives_the_same_logits_what_the_head_is_given_and_what_parts_give(name):
    entry = MODELS.entry(name)
    spec = Spec(name, params_from(entry.params, entry.example))
    model = MODELS.build(spec, num_classes=5, image=IMAGE, dtype=jnp.float32)
    variables = perturbed(build(name))
    run = jax.jit(lambda *args: (model.describe(*args), model.intermediates(*args)))
    (logits, embedding), parts = run(variables, batch())
    expected, _ = build(name).apply(variables, batch(), KEY, False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert (embedding.shape[0], embedding.ndim, embedding.dtype) == (4, 2, jnp.float32)
    head = jax.device_get(variables.params["head"])
    by_hand = np.asarray(embedding, np.float64) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-4)

    np.testing.assert_allclose(parts["embedding"], embedding, rtol=1e-5, atol=1e-6)
    assert len(parts) > 1
    for part, value in parts.items():
        assert re.fullmatch(r"block_\d\d|stage_\d|embedding", part)
        assert (value.shape[0], value.ndim) == (4, {"block": 3, "stage": 4, "embedding": 2}[part.split("_")[0]])
        assert np.isfinite(value).all()
        assert np.ptp(value) > 0


def test_nothing_is_kept_of_the_embedding_in_state_or_training(name):
    model = build(name)
    variables = jax.eval_shape(model.init, KEY)
    assert "intermediates" not in variables.state
    _, state = jax.eval_shape(lambda variables: model.apply(variables, batch(), KEY, True), variables)
    assert "intermediates" not in state


def test_gradients_reach_every_parameter_and_lower_the_loss(name):
    model = build(name)
    variables, label = perturbed(model), jnp.arange(4)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logits, _ = model.apply(Variables(params, variables.state), batch(), KEY, True)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), label].mean()

    params, losses = jax.device_get(variables.params), []
    for _ in range(5):
        value, gradients = jax.device_get(loss(params))
        losses.append(value)
        for path, gradient in named_leaves(gradients):
            assert np.abs(gradient).max() > 0, path
        rate = np.float32(0.1 / np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradients))))
        params = jax.tree.map(lambda x, g, rate=rate: x - rate * g, params, gradients)
    assert losses[-1] < losses[0]


def test_the_rules_of_sharding_decide_about_every_parameter(name):
    shapes = jax.eval_shape(build(name).init, KEY).params
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = dict(named_leaves(shard_params(shapes, mesh)))
    assert placed.keys() == dict(named_leaves(shapes)).keys()
    for path, leaf in named_leaves(shapes):
        assert placed[path].shard_shape(leaf.shape)  # every dim can be cut as its spec says


@pytest.mark.slow
def test_what_is_computed_again_gives_the_same_gradient(name):
    entry = MODELS.entry(name)
    if "remat" not in inspect.signature(entry.build).parameters:
        pytest.skip("it cannot compute its activations again")
    spec = Spec(name, params_from(entry.params, entry.example))
    variables = perturbed(build(name))

    def gradients(remat):
        model = MODELS.build(spec, num_classes=5, image=IMAGE, dtype=jnp.float32, remat=remat)

        def loss(params):
            return (model.apply(Variables(params, variables.state), batch(), KEY, True)[0] ** 2).sum()

        return jax.jit(jax.grad(loss))(variables.params)

    for a, b in zip(*(jax.tree.leaves(gradients(remat)) for remat in ("none", "full")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1, np.abs(a).max()))


def test_an_examples_logits_do_not_depend_on_its_neighbours_in_evaluation(name):
    model = build(name)
    variables = perturbed(model)
    together, _ = model.apply(variables, batch(), KEY, False)
    alone, _ = model.apply(variables, batch()[1:2], KEY, False)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_training_differs_by_randomness_and_batch_statistics_only(name):
    model = build(name)
    variables = perturbed(model)
    first, state = model.apply(variables, batch(), KEY, True)
    again, _ = model.apply(variables, batch(), KEY, True)
    np.testing.assert_array_equal(first, again)
    assert jax.tree.structure(state) == jax.tree.structure(variables.state)
    if variables.state:
        assert compute_digest(state) != compute_digest(variables.state)
    else:
        assert state == {}


def test_one_trace_serves_all_steps(name):
    model = build(name)
    traces = []

    @jax.jit
    def forward(variables, images, key):
        traces.append(1)
        return model.apply(variables, images, key, True)

    variables = model.init(KEY)
    for i in range(3):
        _, state = forward(variables, batch(), jax.random.key(i))
        variables = Variables(variables.params, state)
    assert len(traces) == 1


def test_an_nnx_model_works_through_the_same_pair():
    from flax import nnx

    def make(key):
        return nnx.Linear(int(np.prod(IMAGE)), 5, rngs=nnx.Rngs(params=key))

    graph, _ = nnx.split(make(KEY))

    def apply(variables, image, key, train):
        module = nnx.merge(graph, variables.params)
        return module(image.reshape(image.shape[0], -1)), variables.state

    model = Model(lambda key: Variables(nnx.split(make(key))[1], {}), apply)
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, KEY, False))(model.init(KEY), batch())
    assert logits.shape == (4, 5)
    assert compute_digest(model.init(KEY)) == compute_digest(model.init(KEY))
    described, embedding = jax.jit(model.describe)(model.init(KEY), batch())
    np.testing.assert_array_equal(described, logits)
    np.testing.assert_array_equal(embedding, logits)


def test_a_flax_module_that_tells_no_embedding_gives_its_logits_for_one():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, image, train):
            return nn.Dense(5)(image.reshape(image.shape[0], -1))

    model = from_linen(Plain(), IMAGE)
    logits, embedding = model.describe(model.init(KEY), batch())
    np.testing.assert_array_equal(embedding, logits)
