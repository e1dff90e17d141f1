"""ConvNeXt."""

from typing import Annotated, Any, Literal

from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Positive, Remat
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import MODELS, Variant
from mlvlab_jax.types import ImageSpec

#: Variant -> blocks and channels of each stage.
VARIANTS = {
    "T": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "S": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "B": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "L": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "XL": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
}


@configclass
class ConvNextParams:
    """ConvNeXt: convolutions of single channels, then a perceptron over the channels of each position."""

    variant: Literal["T", "S", "B", "L", "XL"] = "T"
    """Sizes of the paper."""
    depths: tuple[Positive, ...] | None = None
    """Blocks of each stage, in place of the variant's; with `widths`."""
    widths: tuple[Positive, ...] | None = None
    """Channels of each stage."""
    patch_size: Positive = 4
    """Side of the squares that the first layer takes, in pixels; 1 or 2 for small images."""
    kernel_size: Literal[3, 5, 7, 9] = 7
    """Side of the filter of each channel."""
    depthwise: Literal["auto", "shifted", "grouped"] = "auto"
    """How these filters are computed: shifted, a sum of shifted products; grouped, the compiler's convolution; auto:
    shifted on CPU, else grouped."""
    layer_scale: Annotated[float, Field(ge=0)] = 1e-6
    """What the scale of each branch starts at; 0 leaves the scales out."""
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that the last block is left out for an example; falls linearly to 0 at the first."""

    def stages(self) -> tuple[tuple[int, int], ...]:
        """(blocks, channels) of each."""
        depths, widths = VARIANTS[self.variant]
        return tuple(zip(self.depths or depths, self.widths or widths, strict=True))


#: Numbers of parameters of the paper and of timm.
_PUBLISHED = {
    "T": Variant({"variant": "T"}, 28_589_128, 8.91),
    "S": Variant({"variant": "S"}, 50_223_688, 17.37),
    "B": Variant({"variant": "B"}, 88_591_464, 30.71),
    "L": Variant({"variant": "L"}, 197_767_336, 68.72),
    "XL": Variant({"variant": "XL"}, 350_196_968, 121.84),
}


@MODELS.register(
    "convnext", ConvNextParams, example={"depths": [1, 1], "widths": [4, 8], "kernel_size": 3}, variants=_PUBLISHED
)
def build_convnext(
    params: ConvNextParams, *, num_classes: int, image: ImageSpec, dtype: Any, remat: Remat = "none"
) -> Any:
    """The network as a `Model`.

    Raises:
        ConfigError: Numbers of depths and widths differ, or the image is smaller than the stages divide it.

    References:
        Z. Liu et al., "A ConvNet for the 2020s", 2022.
    """
    if (params.depths is None) != (params.widths is None) or len(params.depths or ()) != len(params.widths or ()):
        raise ConfigError(
            f"expected depths and widths together, of the same length, found {params.depths} and {params.widths}; "
            "for example depths: [2, 2], widths: [32, 64]",
            path="model.params.depths",
        )
    side, cut = min(image.height, image.width), params.patch_size * 2 ** (len(params.stages()) - 1)
    if side < cut:
        raise ConfigError(
            f"{len(params.stages())} stages on patches of {params.patch_size} pixels need images of {cut} x {cut}, "
            f"found {image.height} x {image.width}; take a smaller patch_size, or fewer depths and widths",
            path="model.params.patch_size",
        )
    from mlvlab_jax.models.nets.api import from_linen
    from mlvlab_jax.models.nets.convnext import ConvNext

    return from_linen(ConvNext(params=params, num_classes=num_classes, dtype=dtype, remat=remat), image)
