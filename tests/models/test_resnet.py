"""Residual networks: stems, normalisations and their statistics by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.nets import resnet
from mlvlab_jax.models.resnet import ResNetParams
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec

KEY = jax.random.key(0)


def build(side=32, **params):
    spec = Spec("resnet", params_from(ResNetParams, params))
    return MODELS.build(spec, num_classes=3, image=ImageSpec(side, side, 3), dtype=jnp.float32)


def trace(model, side, *, train=False):
    """Shapes of intermediates, or of the state after a training step; nothing is computed."""
    variables, image = jax.eval_shape(model.init, KEY), jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    if train:
        return jax.eval_shape(lambda v, x: model.apply(v, x, KEY, True), variables, image)
    return jax.eval_shape(model.intermediates, variables, image)


@pytest.mark.parametrize(
    ("side", "stem", "first"), [(224, "imagenet", 56), (224, "deep", 56), (225, "deep", 57), (32, "small", 32)]
)
def test_stages_halve_what_the_stem_leaves(side, stem, first):
    found = trace(build(side, depth=50, stem=stem, width=8), side)
    sides = [found[f"stage_{i}"].shape for i in range(4)]
    expected = [-(-first // 2**i) for i in range(4)]
    assert sides == [(2, n, n, 32 * 2**i) for i, n in enumerate(expected)]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_depth_is_the_number_of_weighted_layers(depth):
    params = jax.eval_shape(build(depth=depth, width=2).init, KEY).params
    kernels = [path for path, _ in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    assert len([path for path in kernels if "shortcut" not in str(path)]) == depth


@pytest.mark.parametrize("norm", ["group", "group_standardized"])
def test_group_normalisation_keeps_no_statistics(norm):
    model = build(norm=norm, width=32)
    variables = jax.eval_shape(model.init, KEY)
    assert variables.state == trace(model, 32, train=True)[1] == {}
    assert not any("BatchNorm" in name for name in variables.params["stage0_0"])


def test_a_standardized_kernel_has_mean_0_and_variance_1():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 5, 3)), 7 + 3 * rng.normal(size=(3, 3, 3, 4))
    standard = (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))
    numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    arrays = [jnp.asarray(array, jnp.float32) for array in (x, kernel, standard)]
    expected = jax.lax.conv_general_dilated(arrays[0], arrays[2], (1, 1), "VALID", **numbers)
    found = resnet._convolve_standardized(*arrays[:2], (1, 1), "VALID", **numbers)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_kernel_is_standardized_where_asked(monkeypatch):
    seen = []
    real = resnet._convolve_standardized
    monkeypatch.setattr(resnet, "_convolve_standardized", lambda x, *args, **kw: seen.append(1) or real(x, *args, **kw))
    for norm, expected in (("group", 0), ("group_standardized", 20)):
        seen.clear()
        trace(build(norm=norm, width=32), 32)
        assert len(seen) // 2 == expected  # traced for the arrays, and for the outputs


def test_stochastic_depth_rises_from_the_first_block_to_the_last(monkeypatch):
    rates = []
    monkeypatch.setattr(resnet, "StochasticDepth", lambda rate: rates.append(rate) or (lambda branch, train: branch))
    trace(build(depth=34, width=2, stochastic_depth=0.3), 32)
    np.testing.assert_allclose(rates[:16], np.linspace(0, 0.3, 16), rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"norm": "group", "width": 48}, "norm 'group' cuts the channels into 32 groups, found width 48; 64 fits"),
        ({"norm": "group", "width": 32, "stem": "deep"}, "found width 32 and a deep stem of half of it; 64 fits"),
    ],
)
def test_channels_that_make_no_groups_are_refused(params, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        build(**params)
    assert caught.value.path == "model.params.width"
