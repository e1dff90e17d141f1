"""See `mlvlab_jax.models.resnet`."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mlvlab_jax.config.training import Remat
from mlvlab_jax.models.nets.layers import StochasticDepth, max_pool, recompute
from mlvlab_jax.models.resnet import NUM_GROUPS, ResNetParams

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_SMALLEST_VARIANCE = 1e-8


class Block(nn.Module):
    """Two 3 x 3 convolutions, or a 1-3-1 bottleneck that ends four times as wide; plus the shortcut."""

    params: ResNetParams
    width: int
    stride: int
    stochastic_depth: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv, norm = _make_layers(self.params, train, self.dtype)
        bottleneck, stride = self.params.depth >= 50, (self.stride, self.stride)
        width = self.width * 4 if bottleneck else self.width
        if bottleneck:
            y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
            y = nn.relu(norm()(conv(self.width, (3, 3), stride, padding=1)(y)))
            y = conv(width, (1, 1))(y)
        else:
            y = nn.relu(norm()(conv(width, (3, 3), stride, padding=1)(x)))
            y = conv(width, (3, 3), padding=1)(y)
        y = norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            if self.params.stem == "deep" and self.stride == 2:
                x, stride = nn.avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False), (1, 1)
            x = norm(name="shortcut_norm")(conv(width, (1, 1), stride, name="shortcut")(x))
        return nn.relu(x + StochasticDepth(self.stochastic_depth)(y, train))


class ResNet(nn.Module):
    """Stem, four stages of blocks, mean over positions, linear classifier."""

    params: ResNetParams
    num_classes: int
    dtype: Any
    remat: Remat = "none"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        x = self._stem(image.astype(self.dtype), train)
        block_class, index = recompute(Block, self.remat), 0
        last = max(1, sum(_BLOCKS[self.params.depth]) - 1)
        for stage, num_blocks in enumerate(_BLOCKS[self.params.depth]):
            for i in range(num_blocks):
                stride, width = 2 if stage > 0 and i == 0 else 1, self.params.width * 2**stage
                rate = self.params.stochastic_depth * index / last
                x = block_class(self.params, width, stride, rate, self.dtype, name=f"stage{stage}_{i}")(x, train)
                index += 1
            self.sow("intermediates", f"stage_{stage}", x)
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, name="head")(features)

    def _stem(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv, norm = _make_layers(self.params, train, self.dtype)
        width, stem = self.params.width, self.params.stem
        if stem == "small":
            return nn.relu(norm()(conv(width, (3, 3), padding=1)(x)))
        if stem == "deep":
            x = nn.relu(norm()(conv(width // 2, (3, 3), (2, 2), padding=1)(x)))
            x = nn.relu(norm()(conv(width // 2, (3, 3), padding=1)(x)))
            x = conv(width, (3, 3), padding=1)(x)
        else:
            x = conv(width, (7, 7), (2, 2), padding=3)(x)
        return max_pool(nn.relu(norm()(x)), 3, stride=2, padding=1)


def _make_layers(params: ResNetParams, train: bool, dtype: Any) -> tuple[Any, Any]:
    """Makers of the convolutions and normalisations of a network."""
    conv = functools.partial(nn.Conv, use_bias=False, dtype=dtype)
    if params.norm == "batch":
        return conv, functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=dtype)
    if params.norm == "group_standardized":
        conv = functools.partial(conv, conv_general_dilated=_convolve_standardized)
    return conv, functools.partial(nn.GroupNorm, num_groups=NUM_GROUPS, epsilon=1e-5, dtype=dtype)


def _convolve_standardized(x: Array, kernel: Array, *args: Any, **kwargs: Any) -> Array:
    """A convolution whose kernel has mean 0 and variance 1 over the inputs of each output."""
    exact = kernel.astype(jnp.float32)
    centred = exact - exact.mean(axis=(0, 1, 2), keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=(0, 1, 2), keepdims=True) + _SMALLEST_VARIANCE)
    return lax.conv_general_dilated(x, (centred / deviation).astype(kernel.dtype), *args, **kwargs)
