"""EfficientNetV2, for devices with little memory and arithmetic."""

import math
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Fraction, Remat
from mlvlab_jax.plugins import MODELS, Variant
from mlvlab_jax.types import ImageSpec


class Stage(NamedTuple):
    """Blocks of one kind.

    kind: conv, one 3 x 3 convolution; fused, one that widens and one of 1 x 1 that narrows; depthwise, a 1 x 1 that
    widens, a filter for each channel, attention to channels and a 1 x 1 that narrows. expansion: how much wider inside.
    stride: of its first block.
    """

    kind: Literal["conv", "fused", "depthwise"]
    expansion: int
    stride: int
    channels: int
    num_blocks: int


def _stages(channels: tuple[int, ...], num_blocks: tuple[int, ...]) -> tuple[Stage, ...]:
    """What all variants have in common, as long as there are numbers."""
    kinds: list[tuple[Literal["conv", "fused", "depthwise"], int, int]] = [
        ("conv", 1, 1),
        ("fused", 4, 2),
        ("fused", 4, 2),
        ("depthwise", 4, 2),
        ("depthwise", 6, 1),
        ("depthwise", 6, 2),
        ("depthwise", 6, 1),
    ]
    return tuple(Stage(*kind, c, n) for kind, c, n in zip(kinds, channels, num_blocks, strict=False))


_B = _stages((16, 32, 48, 96, 112, 192), (1, 2, 2, 3, 5, 8))
#: Variant -> channels of the stem, stages, and factors of channels and of blocks.
VARIANTS = {
    "B0": (32, _B, 1.0, 1.0),
    "B1": (32, _B, 1.0, 1.1),
    "B2": (32, _B, 1.1, 1.2),
    "B3": (32, _B, 1.2, 1.4),
    "S": (24, _stages((24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15)), 1.0, 1.0),
    "M": (24, _stages((24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5)), 1.0, 1.0),
    "L": (32, _stages((32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7)), 1.0, 1.0),
}
_TOP = 1280


@configclass
class EfficientNetV2Params:
    """EfficientNetV2: wide convolutions on the large images at the front, filters of single channels behind."""

    variant: Literal["B0", "B1", "B2", "B3", "S", "M", "L"] = "B0"
    """Sizes of the paper."""
    width: Annotated[float, Field(gt=0)] = 1.0
    """Factor of all channels, over the variant's; rounded to multiples of 8."""
    depth: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the blocks of each stage, over the variant's; rounded up."""
    stem_stride: Literal[1, 2] = 2
    """Of every how many rows and columns the first layer makes one; 1 for small images."""
    depthwise: Literal["auto", "shifted", "grouped"] = "auto"
    """How filters of single channels are computed: shifted, a sum of shifted products; grouped, the compiler's
    convolution; auto: shifted on CPU, else grouped."""
    dropout: Fraction = 0.0
    """Dropped share of the features before the classifier; the paper has 0.2 to 0.5."""
    stochastic_depth: Fraction = 0.0
    """Chance to skip the last block for an example; earlier blocks linearly less. The paper has 0.2."""

    def resolved(self) -> tuple[int, tuple[Stage, ...], int]:
        """Channels of the stem, the stages, and channels of the last layer, all factors applied."""
        stem, stages, width, depth = VARIANTS[self.variant]
        width, depth = width * self.width, depth * self.depth
        scaled = (
            stage._replace(
                channels=_round_channels(stage.channels * width), num_blocks=math.ceil(stage.num_blocks * depth)
            )
            for stage in stages
        )
        return _round_channels(stem * width), tuple(scaled), _round_channels(_TOP * width)


def _round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return max(8, int(channels + 4) // 8 * 8)


#: Numbers of parameters as timm has them (tf_efficientnetv2_*), at the paper's sizes of images for evaluation.
_PUBLISHED = {
    "B0": Variant({"variant": "B0"}, 7_139_704, 1.44, 224),
    "B1": Variant({"variant": "B1"}, 8_141_052, 2.39, 240),
    "B2": Variant({"variant": "B2"}, 10_096_086, 3.4, 260),
    "B3": Variant({"variant": "B3"}, 14_358_406, 6.02, 300),
    "S": Variant({"variant": "S"}, 21_458_488, 16.73, 384),
    "M": Variant({"variant": "M"}, 54_139_356, 49.16, 480),
    "L": Variant({"variant": "L"}, 118_515_272, 112.16, 480),
}
_TINY = {"width": 0.2, "depth": 0.1, "stem_stride": 1, "dropout": 0.1, "stochastic_depth": 0.1}


@MODELS.register("efficientnet_v2", EfficientNetV2Params, example=_TINY, variants=_PUBLISHED)
def build_efficientnet_v2(
    params: EfficientNetV2Params, *, num_classes: int, image: ImageSpec, dtype: Any, remat: Remat = "none"
) -> Any:
    """The network as a `Model`; pads as TensorFlow and JAX do ("SAME"), with the paper's 1e-3 under the variance.

    These are the numbers of the paper's own weights (timm's `tf_efficientnetv2_*`), not of torchvision's, which pads
    both sides alike.

    References:
        M. Tan, Q. Le, "EfficientNetV2: Smaller Models and Faster Training", 2021.
        J. Hu, L. Shen, G. Sun, "Squeeze-and-Excitation Networks", 2017.
    """
    from mlvlab_jax.models.nets.api import from_linen
    from mlvlab_jax.models.nets.efficientnet import EfficientNetV2

    return from_linen(EfficientNetV2(params=params, num_classes=num_classes, dtype=dtype, remat=remat), image)
