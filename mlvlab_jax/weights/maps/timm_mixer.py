"""timm's mixer_*."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, dense, norm
from mlvlab_jax.weights.transforms import patches


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    block, theirs = "block{i}", "blocks.{i}"
    return [
        *dense("patch_embed", "stem.proj", patches(image.channels)),
        *norm(f"{block}/tokens_norm", f"{theirs}.norm1"),
        *dense(f"{block}/tokens/mlp_in", f"{theirs}.mlp_tokens.fc1"),
        *dense(f"{block}/tokens/mlp_out", f"{theirs}.mlp_tokens.fc2"),
        *norm(f"{block}/channels_norm", f"{theirs}.norm2"),
        *dense(f"{block}/channels/mlp_in", f"{theirs}.mlp_channels.fc1"),
        *dense(f"{block}/channels/mlp_out", f"{theirs}.mlp_channels.fc2"),
        *norm("norm", "norm"),
        *dense("head", "head"),
    ]


PEER = Peer(
    format="timm",
    model="mixer",
    rules=_rules,
    marks=(r"stem\.proj\.weight", r"blocks\.0\.mlp_tokens\.fc1\.weight"),
    settings=(("gelu", "exact"),),
)
