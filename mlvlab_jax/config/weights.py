"""The section `weights`: what a run starts from in place of chance."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlvlab_jax.config.fields import configclass


@configclass
class WeightsConfig:
    """Weights that training starts from, and how they are made to fit."""

    path: str
    """A .safetensors or .npz file of timm, transformers or big_vision, a model package or what `mlvlab weights import`
    wrote, or hf:owner/name of the Hugging Face hub. Read once, when the run starts."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest the file must have; null takes any. The run notes it in either case, and starts from no other again."""
    head: Literal["keep", "new"] = "keep"
    """The last layer. keep: as it is, for the same classes. new: as chance makes it, for others."""
    classes: Annotated[tuple[int | str, ...], Field(min_length=1)] | None = None
    """Which outputs of the file are kept, by number or name, one for each class of the data in their order; null: all
    as they are."""
    positions: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter that lays position embeddings on another grid of patches; bicubic as timm, bilinear as big_vision."""
    patches: Literal["refuse", "resize"] = "refuse"
    """Weights for patches of another size. resize: by the pseudo-inverse, as FlexiViT. refuse: as it is most often a
    mistake."""

    @model_validator(mode="after")
    def _one_head(self) -> "WeightsConfig":
        if self.head == "new" and self.classes is not None:
            raise ValueError("head 'new' keeps no outputs, and classes names some; expected one of the two")
        return self
