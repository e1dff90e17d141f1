"""Pieces that several networks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.models.nets.layers import max_pool


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_pooling_is_that_of_flax_and_so_is_its_gradient(window, stride, padding, size, dtype):
    x = jax.random.permutation(jax.random.key(0), size[0] * size[1] * 3).reshape(1, *size, 3).astype(dtype)
    x = x - 80  # negative values too: what lies around the image must not win

    def theirs(x):
        return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))

    def ours(x):
        return max_pool(x, window, stride=stride, padding=padding)

    expected, pull_theirs = jax.vjp(theirs, x)
    found, pull_ours = jax.vjp(ours, x)
    np.testing.assert_array_equal(found, expected)
    weights = jax.random.normal(jax.random.key(1), expected.shape, dtype)
    np.testing.assert_allclose(
        np.asarray(pull_ours(weights)[0], np.float32),
        np.asarray(pull_theirs(weights)[0], np.float32),
        atol=0.05 if dtype == jnp.bfloat16 else 1e-6,
    )


def test_the_largest_of_several_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x, 2, stride=2).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient, 0.25)
