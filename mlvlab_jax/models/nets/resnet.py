"""See `mlvlab_jax.models.resnet`."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.config.schema import Remat
from mlvlab_jax.models.nets.layers import recompute
from mlvlab_jax.models.resnet import ResNetParams

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    """Two 3 x 3 convolutions, or a 1-3-1 bottleneck that ends four times as wide; plus the shortcut."""

    width: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        stride = (self.stride, self.stride)
        width = self.width * 4 if self.bottleneck else self.width
        if self.bottleneck:
            y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
            y = nn.relu(norm()(conv(self.width, (3, 3), stride, padding=1)(y)))
            y = conv(width, (1, 1))(y)
        else:
            y = nn.relu(norm()(conv(width, (3, 3), stride, padding=1)(x)))
            y = conv(width, (3, 3), padding=1)(y)
        y = norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = norm(name="shortcut_norm")(conv(width, (1, 1), stride, name="shortcut")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem, four stages of blocks, mean over positions, linear classifier."""

    params: ResNetParams
    num_classes: int
    dtype: Any
    remat: Remat = "none"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        x = image.astype(self.dtype)
        small = self.params.stem == "small"
        kernel, stride = ((3, 3), (1, 1)) if small else ((7, 7), (2, 2))
        x = nn.Conv(self.params.width, kernel, stride, padding=kernel[0] // 2, use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x))
        if not small:
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block_class = recompute(Block, self.remat)
        for stage, num_blocks in enumerate(_BLOCKS[self.params.depth]):
            for i in range(num_blocks):
                stride_here = 2 if stage > 0 and i == 0 else 1
                block = block_class(
                    self.params.width * 2**stage,
                    stride_here,
                    self.params.depth >= 50,
                    self.dtype,
                    name=f"stage{stage}_{i}",
                )
                x = block(x, train)
            self.sow("intermediates", f"stage_{stage}", x)
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, name="head")(features)
