"""Pieces of the networks against plain definitions, and images that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.nets.layers import StochasticDepth, to_patches
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec


def build(name, image, **params):
    spec = Spec(name, params_from(MODELS.entry(name).params, params))
    return MODELS.build(spec, num_classes=10, image=image, dtype=jnp.float32)


def test_patches_and_product_equal_a_strided_convolution():
    image = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))
    expected = jax.lax.conv_general_dilated(image, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(to_patches(image, 4) @ kernel.reshape(-1, 5), expected, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_examples():
    branch = jnp.ones((4000, 3, 2))
    out = StochasticDepth(0.25).apply({}, branch, True, rngs={"dropout": jax.random.key(0)})
    per_example = np.asarray(out).reshape(4000, -1)
    assert (per_example == per_example[:, :1]).all()
    assert set(np.unique(per_example)) == {0.0, np.float32(1 / 0.75)}
    assert abs(per_example.mean() - 1) < 0.03
    np.testing.assert_array_equal(StochasticDepth(0.25).apply({}, branch, False), branch)


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (28, 7), (32, 8), (48, 12), (64, 16), (224, 16)])
def test_auto_patch_leaves_at_least_four_by_four(side, patch):
    model = build("vision_transformer", ImageSpec(side, side, 1), variant="Ti", num_layers=1)
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    assert params["patch_embed"]["kernel"].shape[0] == patch * patch


@pytest.mark.parametrize(
    ("name", "image", "params", "expected"),
    [
        (
            "vision_transformer",
            (8, 8, 1),
            {"patch_size": 16},
            "the 8 x 8 image is smaller than the patch of 16 .* 8 fits",
        ),
        ("vision_transformer", (28, 28, 1), {"patch_size": 16}, "not a multiple of the patch of 16 pixels.* 14 fits"),
        ("cnn", (9, 9, 1), {"patch_size": 2}, "not a multiple of the patch of 2 pixels"),
        ("cnn", (4, 4, 1), {"widths": [4] * 4}, "4 stages halve a 4 x 4 image to nothing"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, image, params, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        build(name, ImageSpec(*image), **params)
    assert caught.value.path.startswith("model.params.")
