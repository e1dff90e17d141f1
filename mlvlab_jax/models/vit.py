"""Vision transformers, by the names of their papers or with every field free."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Fraction, Positive, Remat
from mlvlab_jax.models.attention import Accelerator, choose_attention
from mlvlab_jax.models.cnn import check_patch
from mlvlab_jax.plugins import MODELS, Variant
from mlvlab_jax.types import ImageSpec

Gelu = Literal["tanh", "exact"]

#: hidden_size, num_heads, num_layers, mlp_dim. B to H: Dosovitskiy et al. 2020; Ti, S: Touvron et al. 2020; So400m:
#: Alabdulmohsin et al. 2023; g, G: Zhai et al. 2021.
VARIANTS = {
    "Ti": (192, 3, 12, 768),
    "S": (384, 6, 12, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 16, 24, 4096),
    "H": (1280, 16, 32, 5120),
    "So400m": (1152, 16, 27, 4304),
    "g": (1408, 16, 40, 6144),
    "G": (1664, 16, 48, 8192),
}


@configclass
class VisionTransformerParams:
    """A variant, and what is to differ from it."""

    variant: Literal["Ti", "S", "B", "L", "H", "So400m", "g", "G"] = "B"
    """Size by name; each field below overrides one of its numbers."""
    hidden_size: Positive | None = None
    """Width of a token."""
    num_heads: Positive | None = None
    """Attention heads; must divide hidden_size."""
    num_layers: Positive | None = None
    """Transformer blocks."""
    mlp_dim: Positive | None = None
    """Width inside a block's MLP; where hidden_size is given it defaults to four times that."""
    patch_size: Positive | Literal["auto"] = "auto"
    """Side of a patch in pixels; auto: 16 from 64 pixels on, else the largest that leaves at least 4 x 4 patches."""
    pool: Literal["cls", "gap", "map"] = "cls"
    """What is classified: cls, an extra class token; gap, the mean of all patches; map, the answer of attention to one
    learned query, as SigLIP has it."""
    final_norm: Literal["tokens", "pooled"] = "tokens"
    """Whether every token is normalised before pooling, as in the paper, or their mean after it, as timm does with gap
    (`fc_norm`)."""
    position: Literal["learned", "learned_patches", "sincos", "rope"] = "learned"
    """How a token knows its place. learned: an embedding for each, the class token too. learned_patches: for patches
    only, as in DeiT-III (timm's `no_embed_class`). sincos: fixed. rope: queries and keys of patches turned by row and
    column, as RoPE-Axial (Heo et al. 2024; timm's `vit_*_rope_224`); nothing is added."""
    registers: Annotated[int, Field(ge=0)] = 0
    """Extra learned tokens without a place, left out of pooling (timm's `reg_tokens`); 4 is usual."""
    layer_scale: Annotated[float, Field(ge=0)] = 0.0
    """What a learned scale of each channel of both branches starts at; 0 leaves the scales out. DeiT-III: 1e-4, and
    1e-6 for its larger sizes."""
    qk_norm: bool = False
    """Normalise the queries and keys of each head, against attention that grows too sharp at large learning rates."""
    gelu: Gelu = "tanh"
    """Form of the activation: tanh as in JAX (AugReg, big_vision), exact as in torch (timm, DeiT, transformers)."""
    dropout: Fraction = 0.0
    """Dropped share after the embedding, the attention and both MLP layers."""
    stochastic_depth: Fraction = 0.0
    """Chance to skip the last block for an example; earlier blocks linearly less."""
    scan_layers: bool = False
    """One loop over all blocks in place of a program for each: it compiles several times faster where there are many,
    runs a little slower, and stacks the parameters of all blocks into one tree."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """Program of the attention. cudnn: the fused one, for NVIDIA GPUs and bfloat16. xla: runs anywhere. auto: cudnn
    where it can run, and on a GPU where it cannot a line that says why. A package has xla."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> "VisionTransformerParams":
        size = self.resolved()
        if self.position == "sincos" and size.hidden_size % 4:
            raise ValueError(f"position 'sincos' needs hidden_size to be a multiple of 4, found {size.hidden_size}")
        if size.hidden_size % size.num_heads:
            fits = [h for h in range(1, size.num_heads + 1) if size.hidden_size % h == 0]
            raise ValueError(
                f"num_heads {size.num_heads} does not divide hidden_size {size.hidden_size}; "
                f"expected a divisor; {fits[-1]} fits"
            )
        head_dim = size.hidden_size // size.num_heads
        if self.position == "rope" and head_dim % 4:
            raise ValueError(
                f"position 'rope' needs heads of a multiple of 4, found hidden_size / num_heads {head_dim}"
            )
        if self.final_norm == "pooled" and self.pool != "gap":
            raise ValueError(
                f"final_norm 'pooled' normalises a mean, found pool {self.pool!r}; expected pool 'gap', or final_norm "
                "'tokens'"
            )
        return self

    def resolved(self) -> "Size":
        """The four numbers, variant and overrides combined."""
        hidden, heads, layers, mlp = VARIANTS[self.variant]
        if self.hidden_size is not None:
            mlp = 4 * self.hidden_size
        return Size(
            hidden_size=self.hidden_size or hidden,
            num_heads=self.num_heads or heads,
            num_layers=self.num_layers or layers,
            mlp_dim=self.mlp_dim or mlp,
        )


@dataclasses.dataclass(frozen=True)
class Size:
    """The four numbers that make a transformer's size."""

    hidden_size: int
    num_heads: int
    num_layers: int
    mlp_dim: int


_DEIT3 = {"position": "learned_patches", "layer_scale": 1e-4, "gelu": "exact"}
_ROPE = {"position": "rope", "layer_scale": 1e-5, "gelu": "exact"}
_REGISTERS = {"registers": 4, "pool": "gap", "final_norm": "pooled", "position": "learned_patches", "gelu": "exact"}
#: Numbers of parameters of the papers, and of timm where these round.
_PUBLISHED = {
    "Ti/16": Variant({"variant": "Ti", "patch_size": 16}, 5_717_416, 2.51),
    "S/32": Variant({"variant": "S", "patch_size": 32}, 22_878_952, 2.29),
    "S/16": Variant({"variant": "S", "patch_size": 16}, 22_050_664, 9.2),
    "B/32": Variant({"variant": "B", "patch_size": 32}, 88_224_232, 8.82),
    "B/16": Variant({"variant": "B", "patch_size": 16}, 86_567_656, 35.13),
    "B/8": Variant({"variant": "B", "patch_size": 8}, 86_576_872, 156.3),
    "L/32": Variant({"variant": "L", "patch_size": 32}, 306_535_400, 30.76),
    "L/16": Variant({"variant": "L", "patch_size": 16}, 304_326_632, 123.11),
    "L/14": Variant({"variant": "L", "patch_size": 14}, 304_203_752, 162.03),
    "H/14": Variant({"variant": "H", "patch_size": 14}, 632_045_800, 334.59),
    "g/14": Variant({"variant": "g", "patch_size": 14}, 1_012_611_432, 534.06),
    "G/14": Variant({"variant": "G", "patch_size": 14}, 1_844_440_680, 967.5),
    "DeiT-III-S/16": Variant(_DEIT3 | {"variant": "S", "patch_size": 16}, 22_059_496, 9.2),
    "DeiT-III-B/16": Variant(_DEIT3 | {"variant": "B", "patch_size": 16}, 86_585_320, 35.13),
    "DeiT-III-L/16": Variant(_DEIT3 | {"variant": "L", "patch_size": 16}, 304_374_760, 123.11),
    "DeiT-III-H/14": Variant(_DEIT3 | {"variant": "H", "patch_size": 14}, 632_126_440, 334.59),
    "SigLIP-B/16": Variant({"variant": "B", "patch_size": 16, "pool": "map"}, 93_653_224, 35.42),
    "SigLIP-So400m/14": Variant({"variant": "So400m", "patch_size": 14, "pool": "map"}, 428_833_704, 220.36),
    "RoPE-S/16": Variant(_ROPE | {"variant": "S", "patch_size": 16}, 21_984_232, 9.2),
    "RoPE-B/16": Variant(_ROPE | {"variant": "B", "patch_size": 16}, 86_434_792, 35.13),
    "RoPE-L/16": Variant(_ROPE | {"variant": "L", "patch_size": 16}, 304_174_056, 123.11),
    "B/16-reg4": Variant(_REGISTERS | {"variant": "B", "patch_size": 16}, 86_615_272, 46.96, 256),
}

_TINY = {
    "hidden_size": 16,
    "num_heads": 2,
    "num_layers": 2,
    "patch_size": 4,
    "registers": 1,
    "layer_scale": 0.5,
    "qk_norm": True,
    "dropout": 0.1,
    "stochastic_depth": 0.1,
}


@MODELS.register("vision_transformer", VisionTransformerParams, example=_TINY, variants=_PUBLISHED)
def build_vision_transformer(
    params: VisionTransformerParams,
    *,
    num_classes: int,
    image: ImageSpec,
    dtype: Any,
    remat: Remat = "none",
    device: Accelerator | None = None,
) -> Any:
    """The network as a `Model`.

    Args:
        params: Its size and form.
        num_classes: Width of the logits.
        image: Shape of what it is given.
        dtype: Of its arithmetic.
        remat: What of a block is kept for the gradient.
        device: Where it runs; None for a network that is to run anywhere.

    Raises:
        ConfigError: The image is smaller than the patch or not a multiple of it, or cuDNN cannot compute its attention.

    References:
        A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020.
        H. Touvron et al., "Training data-efficient image transformers", 2020.
        H. Touvron, M. Cord, H. Jegou, "DeiT III: Revenge of the ViT", 2022 (layer scale).
        T. Darcet et al., "Vision Transformers Need Registers", 2023.
    """
    import jax.numpy as jnp

    from mlvlab_jax.models.nets.api import from_linen
    from mlvlab_jax.models.nets.vit import VisionTransformer

    patch_size = _auto_patch(image) if params.patch_size == "auto" else params.patch_size
    check_patch(patch_size, image)
    size = params.resolved()
    attention = choose_attention(
        params.attention, device=device, dtype=jnp.dtype(dtype).name, head_dim=size.hidden_size // size.num_heads
    )
    module = VisionTransformer(
        params=params,
        size=size,
        patch_size=patch_size,
        num_classes=num_classes,
        dtype=dtype,
        remat=remat,
        attention=attention.implementation,
    )
    model = from_linen(module, image, notes=(attention.note,) if attention.note else ())
    return model._replace(num_heads=size.num_heads)


def _auto_patch(image: ImageSpec) -> int:
    shortest = min(image.height, image.width)
    limit = 16 if shortest >= 64 else shortest // 4
    fitting = [p for p in range(1, limit + 1) if image.height % p == 0 and image.width % p == 0]
    return fitting[-1] if fitting else 1
