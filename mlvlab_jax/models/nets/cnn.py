"""See `mlvlab_jax.models.cnn`."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlvlab_jax.models.cnn import CnnParams
from mlvlab_jax.models.nets.layers import max_pool, to_patches


class Cnn(nn.Module):
    """Convolution, normalisation, GELU; max pooling between stages; mean over positions; linear classifier."""

    params: CnnParams
    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        x = to_patches(image.astype(self.dtype), self.params.patch_size)
        for stage, width in enumerate(self.params.widths):
            if stage > 0:
                x = max_pool(x, 2, stride=2)
            x = first = self._conv(x, width, train, name=f"stage{stage}_0")
            for i in range(1, self.params.convs_per_stage):
                x = self._conv(x, width, train, name=f"stage{stage}_{i}")
            if self.params.residual:
                x = x + first
            self.sow("intermediates", f"stage_{stage}", x)
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        features = nn.Dropout(self.params.dropout, deterministic=not train)(features)
        self.sow("intermediates", "embedding", features)
        return nn.Dense(self.num_classes, name="head")(features)

    def _conv(self, x: Array, width: int, train: bool, *, name: str) -> Array:
        x = nn.Conv(width, (3, 3), use_bias=False, dtype=self.dtype, name=name)(x)
        if self.params.norm == "batch":
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, name=f"{name}_norm")(x)
        else:
            x = nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x)
        return nn.gelu(x)
