"""Pieces that several networks share."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float


def to_patches(image: Float[Array, "b h w c"], patch_size: int) -> Float[Array, "b rows columns d"]:
    """Cuts an image into squares of `patch_size` pixels and flattens each; d = patch_size**2 * c."""
    if patch_size == 1:
        return image
    b, h, w, c = image.shape
    rows, columns = h // patch_size, w // patch_size
    cut = image.reshape(b, rows, patch_size, columns, patch_size, c).swapaxes(2, 3)
    return cut.reshape(b, rows, columns, patch_size * patch_size * c)


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole examples and scales the kept ones to the same mean.

    References:
        G. Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """

    rate: float

    @nn.compact
    def __call__(self, branch: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        if not train or self.rate == 0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return branch * kept / (1 - self.rate)
