"""Residual networks."""

from typing import Any, Literal

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Fraction, Positive, Remat
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import MODELS, Variant
from mlvlab_jax.types import ImageSpec

NUM_GROUPS = 32


@configclass
class ResNetParams:
    """ResNet with the stride in the 3 x 3 convolution ("v1.5")."""

    depth: Literal[18, 34, 50, 101, 152] = 18
    """Weighted layers: 18 and 34 of basic blocks, the others of bottlenecks."""
    width: Positive = 64
    """Channels of the first stage; it doubles with each of the four."""
    stem: Literal["imagenet", "small", "deep"] = "imagenet"
    """imagenet: 7 x 7 stride 2 and max pooling; small: one 3 x 3 convolution, for images up to 64 pixels; deep: three
    3 x 3 convolutions, and the mean of 2 x 2 before a shortcut that halves ("ResNet-D")."""
    norm: Literal["batch", "group", "group_standardized"] = "batch"
    """Normalisation after each convolution. batch: over the batch. group: of 32 groups of channels of an example, which
    needs no large batches. group_standardized: the same after kernels of mean 0 and variance 1, as in Big Transfer, but
    in the order of a v1.5 block."""
    stochastic_depth: Fraction = 0.0
    """Chance to skip the last block for an example; earlier blocks linearly less. 0.05 for 300 epochs or more."""


#: Figures of He et al. 2015 and 2018 as timm has them.
_PUBLISHED = {
    "18": Variant({"depth": 18}, 11_689_512, 3.63),
    "34": Variant({"depth": 34}, 21_797_672, 7.33),
    "50": Variant({"depth": 50}, 25_557_032, 8.18),
    "101": Variant({"depth": 101}, 44_549_160, 15.6),
    "152": Variant({"depth": 152}, 60_192_808, 23.03),
    "18-D": Variant({"depth": 18, "stem": "deep"}, 11_708_744, 4.11),
    "50-D": Variant({"depth": 50, "stem": "deep"}, 25_576_264, 8.66),
    "50-GN": Variant({"depth": 50, "norm": "group"}, 25_557_032, 8.18),
}


@MODELS.register("resnet", ResNetParams, example={"depth": 18, "width": 4, "stem": "small"}, variants=_PUBLISHED)
def build_resnet(params: ResNetParams, *, num_classes: int, image: ImageSpec, dtype: Any, remat: Remat = "none") -> Any:
    """The network as a `Model`; convolutions pad both sides alike, as in torch.

    Raises:
        ConfigError: The width cannot be cut into 32 groups where channels are normalised in groups.

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015.
        P. Goyal et al., "Accurate, Large Minibatch SGD", 2017 (zero-initialised last scale).
        T. He et al., "Bag of Tricks for Image Classification with CNNs", 2018 (deep stem).
        Y. Wu, K. He, "Group Normalization", 2018.
        S. Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019.
        A. Kolesnikov et al., "Big Transfer", 2019.
    """
    if params.norm != "batch" and params.width % (2 * NUM_GROUPS if params.stem == "deep" else NUM_GROUPS):
        raise ConfigError(
            f"norm {params.norm!r} cuts the channels into {NUM_GROUPS} groups, found width {params.width}"
            f"{' and a deep stem of half of it' if params.stem == 'deep' else ''}; 64 fits, or take norm: batch",
            path="model.params.width",
        )
    from mlvlab_jax.models.nets.api import from_linen
    from mlvlab_jax.models.nets.resnet import ResNet

    return from_linen(ResNet(params=params, num_classes=num_classes, dtype=dtype, remat=remat), image)
