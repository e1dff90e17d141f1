"""The layout of timm's weights against arithmetic in numpy; tests/benchmarks/test_peers.py trains both where timm is."""

import importlib

import jax
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec

NUM_HEADS, PATCH, WIDTH = 3, 4, 24


@pytest.fixture
def weights():
    return importlib.import_module("weights")


IMAGE = ImageSpec(8, 8, 3)


def init(weights, network: str, **params) -> tuple[dict, dict]:
    """Drawn weights of a network, and the same under timm's names."""
    spec = Spec(network, params_from(MODELS.entry(network).params, params))
    model = MODELS.build(spec, num_classes=5, image=IMAGE, dtype=np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0)).params
    draw = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)
    return drawn, weights.name_for_timm(network, spec.params, IMAGE, drawn)


@pytest.fixture
def vit(weights):
    return init(weights, "vision_transformer", hidden_size=WIDTH, num_heads=NUM_HEADS, num_layers=2, patch_size=PATCH)


def test_every_number_is_kept(weights, vit):
    resnet, named = init(weights, "resnet", depth=50, width=4)
    convnext, named_convnext = init(weights, "convnext", depths=[1, 2], widths=[4, 8], patch_size=2)
    for params, renamed in ((vit[0], vit[1]), (resnet, named), (convnext, named_convnext)):
        before = np.sort(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)]))
        np.testing.assert_array_equal(np.sort(np.concatenate([leaf.ravel() for leaf in renamed.values()])), before)
    assert {"layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "layer2.3.bn3.bias", "fc.weight"} <= set(named)
    assert {"stages.1.downsample.1.weight", "stages.1.blocks.1.conv_dw.weight", "head.fc.bias"} <= set(named_convnext)


def test_queries_keys_and_values_of_a_head_stay_its_own(vit):
    params, named = vit
    x = np.random.default_rng(1).normal(size=WIDTH)
    qkv = params["block1"]["attention"]["qkv"]
    ours = np.split((x @ qkv["kernel"] + qkv["bias"]).reshape(NUM_HEADS, -1), 3, axis=-1)
    theirs = named["blocks.1.attn.qkv.weight"] @ x + named["blocks.1.attn.qkv.bias"]
    np.testing.assert_allclose(theirs.reshape(3, NUM_HEADS, -1), ours, rtol=1e-5)


def test_a_patch_gives_the_same_token_as_a_convolution(vit):
    params, named = vit
    patch = np.random.default_rng(1).normal(size=(PATCH, PATCH, 3))
    ours = patch.ravel() @ params["patch_embed"]["kernel"]
    theirs = np.einsum("dcij,ijc->d", named["patch_embed.proj.weight"], patch)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)


def test_a_difference_is_seen_in_one_tensor_and_in_all(weights):
    ours = {"a": np.array([3.0, 4.0]), "b": np.array([0.0])}
    assert weights.measure_difference(ours, ours) == {"all": 0.0, "worst": 0.0}
    found = weights.measure_difference({"a": np.array([3.0, 4.5]), "b": np.array([0.0])}, ours)
    assert found == pytest.approx({"all": 0.1, "worst": 0.1})
    found = weights.measure_difference({"a": np.array([3.0, 4.0]), "b": np.array([0.005])}, ours)
    assert found == pytest.approx({"all": 0.001, "worst": 1.0})


def test_other_tensors_are_refused(weights):
    with pytest.raises(ValueError, match="other tensors"):
        weights.measure_difference({"a": np.ones(1)}, {"b": np.ones(1)})


def test_perturbation_depends_on_the_name_alone(weights):
    first, again, other = (weights.perturb(name, np.zeros((4, 4), np.float32)) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert abs(first - other).min() > 0
    assert first.std() == pytest.approx(0.02, rel=0.5)


def test_operations_of_the_published_transformer():
    cases = importlib.import_module("cases")
    flops = cases.count_vit_flops(hidden_size=768, num_layers=12, mlp_dim=3072, num_patches=196, patch_dim=768)
    assert flops == pytest.approx(105.4e9, rel=1e-3)
