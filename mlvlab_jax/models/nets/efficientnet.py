"""See `mlvlab_jax.models.efficientnet`."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.config.training import Remat
from mlvlab_jax.models.efficientnet import EfficientNetV2Params, Stage
from mlvlab_jax.models.nets.layers import DepthwiseConv, StochasticDepth, recompute

_EPSILON = 1e-3
_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Block(nn.Module):
    """One block of a stage; plus its input, where that has the same shape."""

    params: EfficientNetV2Params
    stage: Stage
    stride: int
    stochastic_depth: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=_init)
        norm = _make_norm(train, self.dtype)
        stride, wide, width = (self.stride, self.stride), x.shape[-1] * self.stage.expansion, self.stage.channels
        if self.stage.kind == "conv":
            y = nn.silu(norm(name="project_norm")(conv(width, (3, 3), stride, name="project")(x)))
        elif self.stage.kind == "fused":
            y = nn.silu(norm(name="expand_norm")(conv(wide, (3, 3), stride, name="expand")(x)))
            y = norm(name="project_norm")(conv(width, (1, 1), name="project")(y))
        else:
            y = nn.silu(norm(name="expand_norm")(conv(wide, (1, 1), name="expand")(x)))
            y = nn.silu(norm(name="depthwise_norm")(self._filter(y)))
            y = y * self._attend(y, x.shape[-1] // 4)
            y = norm(name="project_norm")(conv(width, (1, 1), name="project")(y))
        return x + StochasticDepth(self.stochastic_depth)(y, train) if x.shape == y.shape else y

    def _filter(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        size = 3
        init = nn.initializers.normal((2 / size**2) ** 0.5)
        form = self.params.depthwise
        return DepthwiseConv(size, form, init, self.dtype, stride=self.stride, use_bias=False, name="depthwise")(x)

    def _attend(self, x: Float[Array, "b h w c"], width: int) -> Float[Array, "b 1 1 c"]:
        """A factor for each channel, from the means of all."""
        mean = x.mean(axis=(1, 2), keepdims=True)
        squeezed = nn.silu(nn.Dense(width, dtype=self.dtype, name="squeeze")(mean))
        return nn.sigmoid(nn.Dense(x.shape[-1], dtype=self.dtype, name="excite")(squeezed))


class EfficientNetV2(nn.Module):
    """Stem, stages of blocks, a wide layer, mean over positions, linear classifier."""

    params: EfficientNetV2Params
    num_classes: int
    dtype: Any
    remat: Remat = "none"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=_init)
        norm = _make_norm(train, self.dtype)
        stem, stages, top = self.params.resolved()
        stride = (self.params.stem_stride, self.params.stem_stride)
        x = nn.silu(norm(name="stem_norm")(conv(stem, (3, 3), stride, name="stem")(image.astype(self.dtype))))
        block_class, index = recompute(Block, self.remat), 0
        last = max(1, sum(stage.num_blocks for stage in stages) - 1)
        for number, stage in enumerate(stages):
            for i in range(stage.num_blocks):
                rate = self.params.stochastic_depth * index / last
                stride_here = stage.stride if i == 0 else 1
                x = block_class(self.params, stage, stride_here, rate, self.dtype, name=f"stage{number}_{i}")(x, train)
                index += 1
            self.sow("intermediates", f"stage_{number}", x)
        x = nn.silu(norm(name="top_norm")(conv(top, (1, 1), name="top")(x)))
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        features = nn.Dropout(self.params.dropout, deterministic=not train)(features)
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, name="head")(features)


def _make_norm(train: bool, dtype: Any) -> Any:
    """Maker of the normalisations of a network."""
    return functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=_EPSILON, dtype=dtype)
