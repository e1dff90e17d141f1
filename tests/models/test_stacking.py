"""One loop over stacked blocks is the network that has a program for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.models.stacking import stack_blocks, unstack_blocks, unstacked_spec
from mlvlab_jax.package.network import make_forward, name_weights
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.trees import compute_digest
from mlvlab_jax.types import ImageSpec
from tests.conftest import tiny_config

IMAGE = ImageSpec(8, 8, 1)
KEY = jax.random.key(0)
SIZE = {"hidden_size": 16, "num_heads": 2, "num_layers": 3, "patch_size": 4}


def build(scan, *, dtype=jnp.float32, **changes):
    spec = Spec(
        "vision_transformer",
        params_from(MODELS.entry("vision_transformer").params, SIZE | {"scan_layers": scan} | changes),
    )
    return MODELS.build(spec, num_classes=3, image=IMAGE, dtype=dtype)


def draw_params(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY).params
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def draw_images(count=4):
    return jax.random.normal(jax.random.key(1), (count, *IMAGE))


def loss(model, train):
    def compute(params, key=KEY):
        logits, _ = model.apply(Variables(params, {}), draw_images(), key, train)
        return (logits * jnp.arange(3.0)[None]).sum(), logits

    return jax.jit(jax.grad(compute, has_aux=True))


@pytest.mark.parametrize("train", [False, True])
def test_logits_and_gradients_are_those_of_the_blocks_one_by_one(train):
    params = draw_params(build(False))
    expected, expected_logits = loss(build(False), train)(params)
    found, logits = loss(build(True), train)(stack_blocks(params))
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-6)
    assert np.ptp(logits) > 0.1
    found = unstack_blocks(found)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_both_forms_hold_the_same_numbers():
    params = draw_params(build(False, num_layers=12))
    stacked = stack_blocks(params)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, draw_params(build(True, num_layers=12)))
    assert compute_digest(unstack_blocks(stacked)) == compute_digest(params)
    kernel = stacked["stacked_blocks"]["attention"]["qkv"]["kernel"]
    np.testing.assert_array_equal(kernel[10], params["block10"]["attention"]["qkv"]["kernel"])
    assert unstack_blocks(params) is params


@pytest.mark.parametrize("names", [["head"], ["block0", "block2"]])
def test_parameters_without_all_their_blocks_are_refused(names):
    with pytest.raises(ConfigError, match="expected block0, block1, ... without a gap"):
        stack_blocks({name: {"kernel": np.zeros(1)} for name in names})


def test_each_block_starts_from_numbers_of_its_own_as_large_as_if_alone():
    size = {"hidden_size": 64, "num_layers": 2}
    alone, stacked = (jax.jit(build(scan, **size).init)(KEY).params for scan in (False, True))
    blocks = unstack_blocks(stacked)
    assert jax.tree.map(jnp.shape, blocks) == jax.tree.map(jnp.shape, alone)
    for name in ("attention/qkv", "attention/out", "mlp_in", "mlp_out"):
        first, second, expected = (get(tree, name) for tree in (blocks["block0"], blocks["block1"], alone["block0"]))
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
        assert first.std() == pytest.approx(expected.std(), rel=0.05)


def get(block, name):
    for part in name.split("/"):
        block = block[part]
    return np.asarray(block["kernel"])


def test_dropout_depends_on_the_key_and_leaves_evaluation_alone():
    model = build(True, dropout=0.5)
    params = draw_params(model)
    logits = [loss(model, True)(params, jax.random.key(i))[1] for i in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 0.01
    evaluated = [loss(build(True, dropout=d), False)(params)[1] for d in (0.0, 0.5)]
    np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("scan", [False, True])
def test_stochastic_depth_skips_later_blocks_more_often(scan):
    # Each block adds one number of its own to the tokens of the examples in which it is not skipped.
    model = build(scan, stochastic_depth=0.5, pool="gap")
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(build(False, pool="gap").init, KEY).params)
    for i in range(3):
        params[f"block{i}"]["mlp_out"]["bias"] = jnp.zeros(16).at[i].set(1.0)
    # Normalising leaves what was added positive, and the rest negative.
    params["norm"]["scale"], params["head"]["kernel"] = jnp.ones(16), jnp.eye(16, 3)
    params = stack_blocks(params) if scan else params
    logits, _ = jax.jit(model.apply, static_argnums=3)(Variables(params, {}), jnp.zeros((2000, *IMAGE)), KEY, True)
    added = np.asarray(logits) > 0
    np.testing.assert_allclose(added.mean(0), [1.0, 0.75, 0.5], atol=0.05)
    assert abs(np.corrcoef(added[:, 1], added[:, 2])[0, 1]) < 0.1


def test_bfloat16_stays_bfloat16():
    model, exact = (build(True, dtype=dtype, stochastic_depth=0.1) for dtype in (jnp.bfloat16, jnp.float32))
    params = draw_params(model)
    low, high = (loss(m, False)(params)[1] for m in (model, exact))
    assert 0 < np.abs(low - high).max() < 0.1 * np.abs(high).max()
    program = str(jax.make_jaxpr(lambda p: loss(model, True)(p)[0])(params))
    assert "dot_general" in program
    assert "f32[4,5,48]" not in program  # queries, keys and values of 4 examples of 5 tokens


def test_a_package_has_a_tree_for_each_block():
    config = tiny_config(model={"name": "vision_transformer", "params": SIZE | {"scan_layers": True}})
    model = build(True)
    params = draw_params(model)
    weights = name_weights(Variables(params, {}))
    forward, shapes = make_forward(config, num_classes=3, image=IMAGE)
    assert {name: leaf.shape for name, leaf in weights.items()} == {name: leaf.shape for name, leaf in shapes.items()}
    assert "params/block2/mlp_in/kernel" in weights
    pixels = np.random.default_rng(0).integers(0, 256, (4, *IMAGE), np.uint8)
    normal = (pixels / 255 - config.pipeline.mean[0]) / config.pipeline.std[0]
    evaluate = jax.jit(lambda params, image: model.apply(Variables(params, {}), image, KEY, False)[0])
    expected = evaluate(params, jnp.asarray(normal, jnp.float32))
    np.testing.assert_allclose(jax.jit(forward)(weights, jnp.asarray(pixels))[0], expected, rtol=1e-4, atol=1e-4)
    assert unstacked_spec(config.model) == dataclasses.replace(
        config.model, params=dataclasses.replace(config.model.params, scan_layers=False)
    )
