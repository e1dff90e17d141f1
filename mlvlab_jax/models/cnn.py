"""A plain convolutional network for small images."""

from typing import Annotated, Any, Literal

from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Fraction, Positive
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.types import ImageSpec


@configclass
class CnnParams:
    """Stages of 3 x 3 convolutions, each stage at half the resolution of the one before."""

    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64, 128)
    """Channels of each stage."""
    convs_per_stage: Positive = 2
    """Convolutions in a stage."""
    patch_size: Positive = 1
    """Pixels folded into channels before the first convolution (space to depth); 2 makes 28 x 28 four times cheaper."""
    norm: Literal["layer", "batch"] = "layer"
    """Normalisation after each convolution; batch is faster to train, layer does not couple examples."""
    residual: bool = False
    """Add each stage's first activation to its last."""
    dropout: Fraction = 0.0
    """Dropped share of the features before the classifier."""


@MODELS.register("cnn", CnnParams, example={"widths": [8, 16], "dropout": 0.1})
def build_cnn(params: CnnParams, *, num_classes: int, image: ImageSpec, dtype: Any) -> Any:
    """The network as a `Model`.

    Raises:
        ConfigError: The image cannot be halved that often, or is not a multiple of the patch.
    """
    from mlvlab_jax.models.nets.api import from_linen
    from mlvlab_jax.models.nets.cnn import Cnn

    check_patch(params.patch_size, image)
    smallest = min(image.height, image.width) // params.patch_size // 2 ** (len(params.widths) - 1)
    if smallest < 1:
        raise ConfigError(
            f"{len(params.widths)} stages halve a {image.height} x {image.width} image to nothing; use fewer widths",
            path="model.params.widths",
        )
    return from_linen(Cnn(params=params, num_classes=num_classes, dtype=dtype), image)


def check_patch(patch_size: int, image: ImageSpec) -> None:
    """Refuses an image that is smaller than the patch or not a multiple of it.

    Raises:
        ConfigError: Names the patch, the image and a patch that fits.
    """
    height, width = image.height, image.width
    if height % patch_size or width % patch_size:
        fits = max(p for p in range(1, patch_size + 1) if height % p == 0 and width % p == 0)
        found = "smaller than" if min(height, width) < patch_size else "not a multiple of"
        raise ConfigError(
            f"the {height} x {width} image is {found} the patch of {patch_size} pixels; expected a divisor of both "
            f"sides; {fits} fits",
            path="model.params.patch_size",
        )
