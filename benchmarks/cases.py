"""What both sides of a step benchmark are told: one network, its input and how it is trained. Needs nothing."""

import dataclasses
from collections.abc import Mapping

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05
#: Pixels are uint8; both sides see (pixel / 255 - MEAN) / STD.
MEAN, STD = 0.5, 0.5


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step: AdamW on the mean cross entropy of one batch.

    network and params: as in a configuration's model section; a transformer's `patch_size` is a number, its pool cls.
    image: height, width, channels. precision: of the arithmetic; weights are float32.
    gradient_limit: how far gradients may be apart, relatively, where rounding alone does more than the precision's own.
    """

    network: str
    params: Mapping[str, object]
    image: tuple[int, int, int]
    num_classes: int
    batch_size: int
    precision: str = "float32"
    gradient_limit: float | None = None

    @classmethod
    def from_tree(cls, tree: Mapping[str, object]) -> "Case":
        """The inverse of `dataclasses.asdict`, from JSON."""
        return cls(**{**tree, "image": tuple(tree["image"])})  # type: ignore[arg-type]


def count_vit_flops(*, hidden_size: int, num_layers: int, mlp_dim: int, num_patches: int, patch_dim: int) -> float:
    """Floating-point operations of one image in training: two a multiply-add, backward twice the forward.

    Matrix products alone, with a class token: patch embedding, query, key, value and output, attention scores and their
    use, MLP. ViT-B/16 at 224: 105.4e9.
    """
    tokens = num_patches + 1
    layer = tokens * (4 * hidden_size**2 + 2 * hidden_size * mlp_dim) + 2 * tokens**2 * hidden_size
    return 6.0 * (num_layers * layer + num_patches * patch_dim * hidden_size)
