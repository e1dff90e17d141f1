"""Attention of all tokens to all, and of one learned query to all."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.models.nets.layers import gelu
from mlvlab_jax.models.nets.positions import turn
from mlvlab_jax.models.vit import Gelu


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value of a head lie together in one kernel, so heads can be sharded.

    References:
        M. Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023 (normalised queries and keys).
    """

    num_heads: int
    qk_norm: bool
    dtype: Any
    implementation: Literal["xla", "cudnn"]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], angles: Float[Array, "n pairs"] | None = None
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        qkv = nn.Dense(3 * d, dtype=self.dtype, name="qkv")(x)
        query, key, value = jnp.split(qkv.reshape(b, n, self.num_heads, -1), 3, axis=-1)
        if self.qk_norm:
            query = nn.LayerNorm(dtype=self.dtype, name="q_norm")(query)
            key = nn.LayerNorm(dtype=self.dtype, name="k_norm")(key)
        if angles is not None:
            query, key = turn(query, angles), turn(key, angles)
        mixed = jax.nn.dot_product_attention(query, key, value, implementation=self.implementation)
        return nn.Dense(d, dtype=self.dtype, name="out")(mixed.reshape(b, n, d))


class AttentionPool(nn.Module):
    """One learned query asks all tokens; a perceptron refines the answer.

    References:
        J. Lee et al., "Set Transformer", 2019; X. Zhai et al., "Scaling Vision Transformers", 2021.
    """

    num_heads: int
    mlp_dim: int
    gelu: Gelu
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        b, n, d = x.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, d)).astype(self.dtype)
        query = nn.Dense(d, dtype=self.dtype, name="q")(probe).reshape(1, 1, self.num_heads, -1)
        kv = nn.Dense(2 * d, dtype=self.dtype, name="kv")(x)
        key, value = jnp.split(kv.reshape(b, n, self.num_heads, -1), 2, axis=-1)
        asked = jax.nn.dot_product_attention(jnp.broadcast_to(query, (b, *query.shape[1:])), key, value)
        asked = nn.Dense(d, dtype=self.dtype, name="out")(asked.reshape(b, d))
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(asked)
        y = gelu(nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_in")(y), self.gelu)
        return asked + nn.Dense(d, dtype=self.dtype, name="mlp_out")(y)
