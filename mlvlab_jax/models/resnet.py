"""Residual networks."""

from typing import Any, Literal

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.schema import Positive, Remat
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.types import ImageSpec


@configclass
class ResNetParams:
    """ResNet with batch normalisation and the stride in the 3 x 3 convolution ("v1.5")."""

    depth: Literal[18, 34, 50] = 18
    """Weighted layers: 18 and 34 of basic blocks, 50 of bottlenecks."""
    width: Positive = 64
    """Channels of the first stage; it doubles with each of the four."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """imagenet: 7 x 7 stride 2 and max pooling; small: one 3 x 3 convolution, for images up to 64 pixels."""


@MODELS.register("resnet", ResNetParams, example={"depth": 18, "width": 4, "stem": "small"})
def build_resnet(params: ResNetParams, *, num_classes: int, image: ImageSpec, dtype: Any, remat: Remat = "none") -> Any:
    """The network as a `Model`.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015.
        P. Goyal et al., "Accurate, Large Minibatch SGD", 2017 (zero-initialised last scale).
    """
    from mlvlab_jax.models.nets.api import from_linen
    from mlvlab_jax.models.nets.resnet import ResNet

    return from_linen(ResNet(params=params, num_classes=num_classes, dtype=dtype, remat=remat), image)
