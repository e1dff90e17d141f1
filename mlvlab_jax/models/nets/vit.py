"""See `mlvlab_jax.models.vit`."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlvlab_jax.config.schema import Remat
from mlvlab_jax.models.nets.layers import StochasticDepth, recompute, to_patches
from mlvlab_jax.models.stacking import STACKED_BLOCKS
from mlvlab_jax.models.vit import Size, VisionTransformerParams


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value of a head lie together in one kernel, so heads can be sharded."""

    num_heads: int
    dtype: Any
    implementation: Literal["xla", "cudnn"]

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        qkv = nn.Dense(3 * d, dtype=self.dtype, name="qkv")(x)
        query, key, value = jnp.split(qkv.reshape(b, n, self.num_heads, -1), 3, axis=-1)
        mixed = jax.nn.dot_product_attention(query, key, value, implementation=self.implementation)
        return nn.Dense(d, dtype=self.dtype, name="out")(mixed.reshape(b, n, d))


class Block(nn.Module):
    """Pre-norm transformer block; its rate of stochastic depth is its own, or given with the call."""

    size: Size
    dropout: float
    stochastic_depth: float
    dtype: Any
    implementation: Literal["xla", "cudnn"]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], train: bool, stochastic_depth: Float[Array, ""] | None = None
    ) -> Float[Array, "b n d"]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        skip = StochasticDepth(self.stochastic_depth if stochastic_depth is None else stochastic_depth)
        y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        attention = Attention(self.size.num_heads, self.dtype, self.implementation, name="attention")
        x = x + skip(drop(attention(y)), train)
        y = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
        y = drop(nn.gelu(nn.Dense(self.size.mlp_dim, dtype=self.dtype, name="mlp_in")(y)))
        y = drop(nn.Dense(self.size.hidden_size, dtype=self.dtype, name="mlp_out")(y))
        return x + skip(y, train)


class VisionTransformer(nn.Module):
    """Patches to tokens by one matrix product, blocks, norm, class token or mean, linear classifier."""

    params: VisionTransformerParams
    size: Size
    patch_size: int
    num_classes: int
    dtype: Any
    remat: Remat = "none"
    attention: Literal["xla", "cudnn"] = "xla"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        patches = to_patches(image.astype(self.dtype), self.patch_size)
        b, rows, columns, _ = patches.shape
        width = self.size.hidden_size
        x = nn.Dense(width, dtype=self.dtype, name="patch_embed")(patches.reshape(b, rows * columns, -1))
        x = x + self._positions(rows, columns).astype(self.dtype)
        if self.params.pool == "cls":
            token = self.param("cls", nn.initializers.zeros, (1, 1, width))
            x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, width)).astype(self.dtype), x], axis=1)
        x = nn.Dropout(self.params.dropout, deterministic=not train)(x)
        x = self._scan_blocks(x, train) if self.params.scan_layers else self._unroll_blocks(x, train)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        features = (x[:, 0] if self.params.pool == "cls" else x.mean(axis=1)).astype(jnp.float32)
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(features)

    def _unroll_blocks(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        block = recompute(Block, self.remat)
        for i, rate in enumerate(self._rates()):
            x = block(self.size, self.params.dropout, rate, self.dtype, self.attention, name=f"block{i}")(x, train)
        return x

    def _scan_blocks(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        block = recompute(Block, self.remat, in_scan=True)
        body = block(self.size, self.params.dropout, 0.0, self.dtype, self.attention, name=STACKED_BLOCKS)
        rates = jnp.asarray(self._rates(), jnp.float32) if self.params.stochastic_depth else None
        scan = nn.scan(
            lambda block, x, rate: (block(x, train, rate), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.size.num_layers,
        )
        return scan(body, x, rates)[0]

    def _rates(self) -> list[float]:
        """Chance to skip each block."""
        last = max(1, self.size.num_layers - 1)
        return [self.params.stochastic_depth * i / last for i in range(self.size.num_layers)]

    def _positions(self, rows: int, columns: int) -> Float[Array, "1 n d"]:
        width = self.size.hidden_size
        if self.params.position == "learned":
            return self.param("pos_embed", nn.initializers.normal(0.02), (1, rows * columns, width))
        return jnp.asarray(sincos_positions(rows, columns, width))


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed sine and cosine position embedding, float32 (1, rows * columns, width); width a multiple of 4.

    References:
        X. Chen, S. Xie, K. He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2021.
    """
    frequency = 1 / 10_000 ** np.linspace(0, 1, width // 4)
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angle_y, angle_x = (np.outer(grid.reshape(-1), frequency) for grid in (y, x))
    parts = [np.sin(angle_x), np.cos(angle_x), np.sin(angle_y), np.cos(angle_y)]
    return np.concatenate(parts, axis=1, dtype=np.float32)[None]
