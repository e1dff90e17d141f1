"""See `mlvlab_jax.models.convnext`."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.config.training import Remat
from mlvlab_jax.models.convnext import ConvNextParams
from mlvlab_jax.models.nets.layers import DepthwiseConv, StochasticDepth, recompute, to_patches

_EPSILON = 1e-6
_init = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Filters of single channels, normalisation and perceptron of each position, scaled; plus the input."""

    params: ConvNextParams
    drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        width = x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_init)
        y = DepthwiseConv(self.params.kernel_size, self.params.depthwise, _init, self.dtype, name="depthwise")(x)
        y = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(y)
        y = nn.gelu(dense(4 * width, name="mlp_in")(y), approximate=False)
        y = dense(width, name="mlp_out")(y)
        if self.params.layer_scale:
            scale = self.param("layer_scale", nn.initializers.constant(self.params.layer_scale), (width,))
            y = y * scale.astype(self.dtype)[None, None, None]
        return x + StochasticDepth(self.drop_rate)(y, train)


class ConvNext(nn.Module):
    """Patches, stages of blocks with a halving before each but the first, mean over positions, linear classifier."""

    params: ConvNextParams
    num_classes: int
    dtype: Any
    remat: Remat = "none"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        stages = self.params.stages()
        norm = functools.partial(nn.LayerNorm, epsilon=_EPSILON, dtype=self.dtype)
        block = recompute(Block, self.remat)
        x, index = image.astype(self.dtype), 0
        last = max(1, sum(depth for depth, _ in stages) - 1)
        for stage, (depth, width) in enumerate(stages):
            x = norm(name=f"stage{stage}_norm")(x) if stage else x
            x = self._reduce(x, 2 if stage else self.params.patch_size, width, name=f"stage{stage}_reduce")
            x = x if stage else norm(name="stem_norm")(x)
            for i in range(depth):
                rate = self.params.stochastic_depth * index / last
                x = block(self.params, rate, self.dtype, name=f"stage{stage}_{i}")(x, train)
                index += 1
            self.sow("intermediates", f"stage_{stage}", x)
        features = norm(dtype=jnp.float32, name="norm")(x.astype(jnp.float32).mean(axis=(1, 2)))
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, kernel_init=_init, name="head")(features)

    def _reduce(self, x: Float[Array, "b h w c"], by: int, width: int, *, name: str) -> Float[Array, "b h2 w2 d"]:
        """Squares of `by` x `by` positions as one; what is left over at the edges is dropped."""
        _, h, w, _ = x.shape
        whole = x[:, : h // by * by, : w // by * by]
        return nn.Dense(width, dtype=self.dtype, kernel_init=_init, name=name)(to_patches(whole, by))
