"""Depthwise convolution in both forms, and what ConvNeXt refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.nets.depthwise import depthwise_conv
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec


def draw(shape, size, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x, kernel, weights = (rng.normal(size=s) for s in (shape, (size, size, 1, shape[-1]), shape))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), jnp.asarray(weights, dtype)


def direct(x, kernel):
    """The definition, in float64: output (h, w) is the sum of inputs (h + i - k // 2, w + j - k // 2)."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    half = kernel.shape[0] // 2
    out = np.zeros_like(x)
    for h in range(x.shape[1]):
        for w in range(x.shape[2]):
            for i in range(kernel.shape[0]):
                for j in range(kernel.shape[0]):
                    y, z = h + i - half, w + j - half
                    if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                        out[:, h, w] += x[:, y, z] * kernel[i, j, 0]
    return out


SHAPES = [((2, 5, 7, 3), 3), ((1, 9, 4, 2), 7), ((2, 2, 2, 1), 5), ((1, 1, 1, 4), 3)]


@pytest.mark.parametrize("form", ["auto", "shifted", "grouped"])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_it_is_what_the_definition_says(form, shape, size):
    x, kernel, _ = draw(shape, size)
    np.testing.assert_allclose(depthwise_conv(x, kernel, form=form), direct(x, kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "size"), [*SHAPES, ((1, 8, 6, 2), 3), ((1, 8, 7, 2), 5)])
def test_with_a_stride_both_forms_and_their_gradients_are_the_same(shape, size):
    x, kernel, _ = draw(shape, size)

    def run(form):
        out, back = jax.vjp(lambda x, k: depthwise_conv(x, k, form=form, stride=2), x, kernel)
        return out, *back(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    assert run("shifted")[0].shape[1:3] == tuple(-(-side // 2) for side in shape[1:3])
    for shifted, grouped in zip(run("shifted"), run("grouped"), strict=True):
        np.testing.assert_allclose(shifted, grouped, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_of_both_forms_are_the_same(dtype):
    x, kernel, weights = draw((2, 6, 5, 3), 7, dtype)

    def gradients(form):
        return jax.grad(lambda x, k: jnp.sum(depthwise_conv(x, k, form=form) * weights), (0, 1))(x, kernel)

    for shifted, grouped in zip(gradients("shifted"), gradients("grouped"), strict=True):
        assert shifted.dtype == grouped.dtype == dtype
        tolerance = 1e-4 if dtype == jnp.float32 else 0.1
        np.testing.assert_allclose(
            np.asarray(shifted, np.float32), np.asarray(grouped, np.float32), rtol=tolerance, atol=5 * tolerance
        )


def test_each_platform_gets_the_form_that_is_fast_there():
    x, kernel, weights = draw((1, 4, 4, 2), 3)
    gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(depthwise_conv(x, k) * weights), (0, 1)))
    for platform, expected in (("cpu", False), ("cuda", True), ("tpu", True)):
        lowered = jax.export.export(gradient, platforms=[platform])(x, kernel).mlir_module()
        assert ("stablehlo.convolution" in lowered) == expected, platform


def build(side, **params):
    spec = Spec("convnext", params_from(MODELS.entry("convnext").params, params))
    return MODELS.build(spec, num_classes=3, image=ImageSpec(side, side, 3), dtype=jnp.float32)


@pytest.mark.parametrize(
    ("side", "params", "expected"),
    [
        (16, {}, "4 stages on patches of 4 pixels need images of 32 x 32, found 16 x 16; take a smaller patch_size"),
        (32, {"depths": [1, 1]}, r"depths and widths together.*found \(1, 1\) and None"),
        (32, {"depths": [1, 1], "widths": [4]}, r"of the same length, found \(1, 1\) and \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(side, params, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        build(side, **params)
    assert caught.value.path.startswith("model.params.")


def test_positions_left_over_at_the_edges_are_dropped():
    model = build(9, depths=[1, 1], widths=[4, 8], patch_size=2)
    variables = jax.jit(model.init)(jax.random.key(0))
    image = np.random.default_rng(0).normal(size=(1, 9, 9, 3)).astype(np.float32)
    other = image.copy()
    other[:, 8] = other[:, :, 8] = 7
    apply = jax.jit(lambda image: model.apply(variables, image, jax.random.key(0), False)[0])
    np.testing.assert_array_equal(apply(image), apply(other))
