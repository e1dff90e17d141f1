"""See `mlvlab_jax.models.vit`."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.config.training import Remat
from mlvlab_jax.models.nets.attention import Attention, AttentionPool
from mlvlab_jax.models.nets.layers import StochasticDepth, gelu, recompute, to_patches
from mlvlab_jax.models.nets.positions import axial_angles, sincos_positions
from mlvlab_jax.models.stacking import STACKED_BLOCKS
from mlvlab_jax.models.vit import Size, VisionTransformerParams


class Block(nn.Module):
    """Pre-norm transformer block; its rate of stochastic depth is its own, or given with the call."""

    params: VisionTransformerParams
    size: Size
    stochastic_depth: float
    dtype: Any
    implementation: Literal["xla", "cudnn"]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        train: bool,
        angles: Float[Array, "n pairs"] | None = None,
        stochastic_depth: Float[Array, ""] | None = None,
    ) -> Float[Array, "b n d"]:
        drop = nn.Dropout(self.params.dropout, deterministic=not train)
        skip = StochasticDepth(self.stochastic_depth if stochastic_depth is None else stochastic_depth)
        y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        attention = Attention(
            self.size.num_heads, self.params.qk_norm, self.dtype, self.implementation, name="attention"
        )
        x = x + skip(self._scale(drop(attention(y, angles)), name="attention_scale"), train)
        y = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
        y = drop(gelu(nn.Dense(self.size.mlp_dim, dtype=self.dtype, name="mlp_in")(y), self.params.gelu))
        y = drop(nn.Dense(self.size.hidden_size, dtype=self.dtype, name="mlp_out")(y))
        return x + skip(self._scale(y, name="mlp_scale"), train)

    def _scale(self, branch: Float[Array, "b n d"], *, name: str) -> Float[Array, "b n d"]:
        """The branch times a learned number for each channel, where the scales are not left out."""
        if not self.params.layer_scale:
            return branch
        scale = self.param(name, nn.initializers.constant(self.params.layer_scale), (branch.shape[-1],))
        return branch * scale.astype(self.dtype)[None, None]


class VisionTransformer(nn.Module):
    """Patches to tokens by one matrix product, blocks, norm, pooling to one vector, linear classifier."""

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
        x = nn.Dense(self.size.hidden_size, dtype=self.dtype, name="patch_embed")(
            patches.reshape(b, rows * columns, -1)
        )
        x = self._place(x, rows, columns)
        x = nn.Dropout(self.params.dropout, deterministic=not train)(x)
        angles = self._angles(rows, columns)
        x = self._scan_blocks(x, train, angles) if self.params.scan_layers else self._unroll_blocks(x, train, angles)
        features = self._pool(x, rows * columns).astype(jnp.float32)
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(features)

    def _place(self, x: Float[Array, "b n d"], rows: int, columns: int) -> Float[Array, "b m d"]:
        """Class token, registers and patches, in this order, with what tells their place."""
        width, num_patches = self.size.hidden_size, rows * columns
        normal = nn.initializers.normal(0.02)
        front = [self.param("cls", nn.initializers.zeros, (1, 1, width))] if self.params.pool == "cls" else []
        if self.params.position == "sincos":
            x = x + jnp.asarray(sincos_positions(rows, columns, width), self.dtype)
        elif self.params.position != "rope":
            placed = len(front) if self.params.position == "learned" else 0
            position = self.param("pos_embed", normal, (1, placed + num_patches, width))
            x = x + position[:, placed:].astype(self.dtype)
            front = [token + position[:, :1] for token in front] if placed else front
        if self.params.registers:
            front.append(self.param("registers", normal, (1, self.params.registers, width)))
        first = [jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape[1:])).astype(self.dtype) for tokens in front]
        return jnp.concatenate([*first, x], axis=1)

    def _angles(self, rows: int, columns: int) -> Float[Array, "n pairs"] | None:
        if self.params.position != "rope":
            return None
        unturned = self.params.registers + (self.params.pool == "cls")
        head_dim = self.size.hidden_size // self.size.num_heads
        return jnp.asarray(axial_angles(rows, columns, head_dim, unturned=unturned))

    def _pool(self, x: Float[Array, "b m d"], num_patches: int) -> Float[Array, "b d"]:
        """One vector for each image; registers have no part in it."""
        norm = nn.LayerNorm(dtype=self.dtype, name="norm")
        x = x if self.params.final_norm == "pooled" else norm(x)
        if self.params.pool == "cls":
            return x[:, 0]
        patches = x[:, -num_patches:]
        if self.params.pool == "map":
            return AttentionPool(self.size.num_heads, self.size.mlp_dim, self.params.gelu, self.dtype, name="map")(
                patches
            )
        mean = patches.mean(axis=1)
        return norm(mean) if self.params.final_norm == "pooled" else mean

    def _unroll_blocks(
        self, x: Float[Array, "b n d"], train: bool, angles: Float[Array, "n pairs"] | None
    ) -> Float[Array, "b n d"]:
        block = recompute(Block, self.remat)
        for i, rate in enumerate(self._rates()):
            x = block(self.params, self.size, rate, self.dtype, self.attention, name=f"block{i}")(x, train, angles)
            self.sow("intermediates", f"block_{i:02}", x)
        return x

    def _scan_blocks(
        self, x: Float[Array, "b n d"], train: bool, angles: Float[Array, "n pairs"] | None
    ) -> Float[Array, "b n d"]:
        block = recompute(Block, self.remat, in_scan=True)
        body = block(self.params, self.size, 0.0, self.dtype, self.attention, name=STACKED_BLOCKS)
        rates = jnp.asarray(self._rates(), jnp.float32) if self.params.stochastic_depth else None
        asked = self.is_mutable_collection("intermediates")

        def step(block: nn.Module, x: Array, rate: Array | None) -> tuple[Array, Array | None]:
            x = block(x, train, angles, rate)
            return x, x if asked else None

        scan = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.size.num_layers,
        )
        x, outputs = scan(body, x, rates)
        for i in range(self.size.num_layers if asked else 0):
            self.sow("intermediates", f"block_{i:02}", outputs[i])
        return x

    def _rates(self) -> list[float]:
        """Chance to skip each block."""
        last = max(1, self.size.num_layers - 1)
        return [self.params.stochastic_depth * i / last for i in range(self.size.num_layers)]
