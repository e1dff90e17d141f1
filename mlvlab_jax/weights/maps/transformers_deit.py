"""Hugging Face's DeiTForImageClassification: a vision transformer with a second token, ours its one register."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.maps.transformers_vit import encoder_rules
from mlvlab_jax.weights.table import Peer, Rule, rule
from mlvlab_jax.weights.transforms import Arrays, Transform, concatenate


def _to_ours(positions: Any, token: Any) -> Arrays:
    """Our registers have no position: that of their token is a constant on top of it."""
    return concatenate([positions[:, :1], positions[:, 2:]], axis=1), token + positions[:, 1:2]


def _to_theirs(positions: Any, register: Any) -> Arrays:
    parts = [positions[:, :1], 0 * register, positions[:, 1:]]
    return concatenate(parts, axis=1), register


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    root = "deit.embeddings"
    both = Rule(
        ("params/pos_embed", "params/registers"),
        (f"{root}.position_embeddings", f"{root}.distillation_token"),
        Transform(_to_ours, _to_theirs),
    )
    return [rule("cls", f"{root}.cls_token"), both, *encoder_rules(params, image, root="deit")]


PEER = Peer(
    format="transformers",
    model="vision_transformer",
    rules=_rules,
    marks=(r"deit\.embeddings\.distillation_token", r"deit\.encoder\.layer\.0\.layernorm_before\.weight"),
    ignored=r"deit\.pooler\..*|.*\.position_ids",
    settings=(("gelu", "exact"),),
)
