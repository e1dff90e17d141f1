"""MLP-Mixer."""

from typing import Any, Literal

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Fraction, Positive, Remat
from mlvlab_jax.models.cnn import check_patch
from mlvlab_jax.models.vit import Gelu
from mlvlab_jax.plugins import MODELS, Variant
from mlvlab_jax.types import ImageSpec

#: Variant -> width of a token, blocks, widths inside the perceptrons over tokens and over channels.
VARIANTS = {"S": (512, 8, 256, 2048), "B": (768, 12, 384, 3072), "L": (1024, 24, 512, 4096), "H": (1280, 32, 640, 5120)}


@configclass
class MixerParams:
    """MLP-Mixer: perceptrons over tokens and over channels in turn. Its images have one size: that of training."""

    variant: Literal["S", "B", "L", "H"] = "B"
    """Sizes of the paper; each of the four numbers below overrides one of its own."""
    hidden_size: Positive | None = None
    """Width of a token."""
    num_layers: Positive | None = None
    """Blocks."""
    tokens_dim: Positive | None = None
    """Width inside the perceptron over tokens; where hidden_size is given it defaults to half of that."""
    channels_dim: Positive | None = None
    """Width inside the perceptron over channels; where hidden_size is given it defaults to four times that."""
    patch_size: Positive = 16
    """Side of a patch in pixels."""
    gelu: Gelu = "tanh"
    """Form of the activation: tanh as in JAX, exact as in torch (timm)."""
    dropout: Fraction = 0.0
    """Dropped share after both layers of each perceptron."""
    stochastic_depth: Fraction = 0.0
    """Chance to skip the last block for an example; earlier blocks linearly less."""

    def resolved(self) -> tuple[int, int, int, int]:
        """hidden_size, num_layers, tokens_dim and channels_dim, variant and overrides combined."""
        hidden, layers, tokens, channels = VARIANTS[self.variant]
        if self.hidden_size is not None:
            tokens, channels = max(1, self.hidden_size // 2), 4 * self.hidden_size
        return (
            self.hidden_size or hidden,
            self.num_layers or layers,
            self.tokens_dim or tokens,
            self.channels_dim or channels,
        )


#: Numbers of parameters as timm has them.
_PUBLISHED = {
    "S/32": Variant({"variant": "S", "patch_size": 32}, 19_104_624, 2.0),
    "S/16": Variant({"variant": "S", "patch_size": 16}, 18_528_264, 7.55),
    "B/32": Variant({"variant": "B", "patch_size": 32}, 60_293_428, 6.48),
    "B/16": Variant({"variant": "B", "patch_size": 16}, 59_880_472, 25.2),
    "L/32": Variant({"variant": "L", "patch_size": 32}, 206_939_264, 22.51),
    "L/16": Variant({"variant": "L", "patch_size": 16}, 208_196_168, 89.1),
}
_TINY = {"hidden_size": 16, "num_layers": 2, "patch_size": 4, "dropout": 0.1, "stochastic_depth": 0.1}


@MODELS.register("mixer", MixerParams, example=_TINY, variants=_PUBLISHED)
def build_mixer(params: MixerParams, *, num_classes: int, image: ImageSpec, dtype: Any, remat: Remat = "none") -> Any:
    """The network as a `Model`.

    Raises:
        ConfigError: The image is smaller than the patch or not a multiple of it.

    References:
        I. Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", 2021.
    """
    check_patch(params.patch_size, image)
    from mlvlab_jax.models.nets.api import from_linen
    from mlvlab_jax.models.nets.mixer import Mixer

    return from_linen(Mixer(params=params, num_classes=num_classes, dtype=dtype, remat=remat), image)
