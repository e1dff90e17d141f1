"""See `mlvlab_jax.models.mixer`."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.config.training import Remat
from mlvlab_jax.models.mixer import MixerParams
from mlvlab_jax.models.nets.layers import StochasticDepth, gelu, recompute, to_patches


class Mlp(nn.Module):
    """Two layers over the last dim."""

    params: MixerParams
    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        drop = nn.Dropout(self.params.dropout, deterministic=not train)
        y = drop(gelu(nn.Dense(self.hidden, dtype=self.dtype, name="mlp_in")(x), self.params.gelu))
        return drop(nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(y))


class Block(nn.Module):
    """A perceptron over the tokens of each channel, then one over the channels of each token."""

    params: MixerParams
    stochastic_depth: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        _, _, tokens_dim, channels_dim = self.params.resolved()
        skip = StochasticDepth(self.stochastic_depth)
        y = nn.LayerNorm(dtype=self.dtype, name="tokens_norm")(x).swapaxes(1, 2)
        y = Mlp(self.params, tokens_dim, self.dtype, name="tokens")(y, train).swapaxes(1, 2)
        x = x + skip(y, train)
        y = nn.LayerNorm(dtype=self.dtype, name="channels_norm")(x)
        return x + skip(Mlp(self.params, channels_dim, self.dtype, name="channels")(y, train), train)


class Mixer(nn.Module):
    """Patches to tokens by one matrix product, blocks, norm, mean over tokens, linear classifier."""

    params: MixerParams
    num_classes: int
    dtype: Any
    remat: Remat = "none"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        hidden_size, num_layers, _, _ = self.params.resolved()
        patches = to_patches(image.astype(self.dtype), self.params.patch_size)
        x = nn.Dense(hidden_size, dtype=self.dtype, name="patch_embed")(
            patches.reshape(patches.shape[0], -1, patches.shape[-1])
        )
        block = recompute(Block, self.remat)
        for i in range(num_layers):
            rate = self.params.stochastic_depth * i / max(1, num_layers - 1)
            x = block(self.params, rate, self.dtype, name=f"block{i}")(x, train)
            self.sow("intermediates", f"block_{i:02}", x)
        features = nn.LayerNorm(dtype=self.dtype, name="norm")(x).mean(axis=1).astype(jnp.float32)
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(features)
