"""Pieces that several networks share."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.config.training import Remat
from mlvlab_jax.models.nets.depthwise import Form, depthwise_conv
from mlvlab_jax.models.vit import Gelu

#: What `jax.checkpoint` may keep, by the names of `training.remat`.
_KEPT = {
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_without_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def to_patches(image: Float[Array, "b h w c"], patch_size: int) -> Float[Array, "b rows columns d"]:
    """Cuts an image into squares of `patch_size` pixels and flattens each; d = patch_size**2 * c."""
    if patch_size == 1:
        return image
    b, h, w, c = image.shape
    rows, columns = h // patch_size, w // patch_size
    cut = image.reshape(b, rows, patch_size, columns, patch_size, c).swapaxes(2, 3)
    return cut.reshape(b, rows, columns, patch_size * patch_size * c)


def max_pool(x: Float[Array, "b h w c"], window: int, *, stride: int, padding: int = 0) -> Float[Array, "b h2 w2 c"]:
    """The largest value of each square window, whose gradient goes to it, in equal parts where there are several.

    On CPU as maxima of strided slices, a row and then a column at a time: the gradient of XLA's own pooling takes six
    to twelve times as long there, and gives the first of several all of it.
    """

    def slices(x: Array) -> Array:
        return _max_along(_max_along(x, 1, window, stride, padding), 2, window, stride, padding)

    def windows(x: Array) -> Array:
        return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))

    return jax.lax.platform_dependent(x, cpu=slices, default=windows)


def _max_along(x: Array, axis: int, window: int, stride: int, padding: int) -> Array:
    around = [(0, 0)] * x.ndim
    around[axis] = (padding, padding)
    padded = jnp.pad(x, around, constant_values=-jnp.inf)
    last = (padded.shape[axis] - window) // stride * stride
    parts = [jax.lax.slice_in_dim(padded, k, k + last + 1, stride, axis) for k in range(window)]
    return functools.reduce(jnp.maximum, parts)


def gelu(x: Float[Array, "*n d"], form: Gelu) -> Float[Array, "*n d"]:
    """The Gaussian error linear unit: tanh, its approximation, or exact.

    References:
        D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units", 2016.
    """
    return nn.gelu(x, approximate=form == "tanh")


def recompute(block: type[nn.Module], remat: Remat, *, in_scan: bool = False) -> Any:
    """`block`, a module called as `block(x, train, ...)`, that computes again for its gradient what `remat` says.

    Args:
        block: The class of module.
        remat: What is kept instead.
        in_scan: Whether it is the body of a loop, where the compiler needs no fence against undoing it.

    References:
        T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    if remat == "none":
        return block
    return nn.remat(block, policy=_KEPT[remat], static_argnums=(2,), prevent_cse=not in_scan)


class DepthwiseConv(nn.Module):
    """A filter for every channel, and a bias."""

    kernel_size: int
    form: Form
    kernel_init: Any
    dtype: Any
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        kernel = self.param("kernel", self.kernel_init, (self.kernel_size, self.kernel_size, 1, x.shape[-1]))
        y = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), form=self.form, stride=self.stride)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(self.dtype)[None, None, None]


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole examples and scales the kept ones to the same mean.

    References:
        G. Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """

    rate: float | Array

    @nn.compact
    def __call__(self, branch: Float[Array, "b *n d"], train: bool) -> Float[Array, "b *n d"]:
        if not train or (isinstance(self.rate, float) and self.rate == 0):
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return branch * kept / jnp.asarray(1 - self.rate, branch.dtype)
