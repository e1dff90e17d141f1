"""Hugging Face's ViTForImageClassification."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, dense, norm, rule
from mlvlab_jax.weights.transforms import patches, separate_qkv


def encoder_rules(params: Any, image: ImageSpec, *, root: str) -> list[Rule]:
    """The rules of all but tokens and positions.

    Args:
        params: Of the vision transformer.
        image: What it is given.
        root: First part of their names.
    """
    block, theirs = "block{i}", f"{root}.encoder.layer.{{i}}"
    attention = f"{theirs}.attention.attention"
    qkv = separate_qkv(params.resolved().num_heads)
    return [
        *dense("patch_embed", f"{root}.embeddings.patch_embeddings.projection", patches(image.channels)),
        *norm(f"{block}/attention_norm", f"{theirs}.layernorm_before"),
        *(
            Rule(
                (f"params/{block}/attention/qkv/{ours}",),
                tuple(f"{attention}.{part}.{name}" for part in ("query", "key", "value")),
                qkv,
            )
            for ours, name in (("kernel", "weight"), ("bias", "bias"))
        ),
        *dense(f"{block}/attention/out", f"{theirs}.attention.output.dense"),
        *norm(f"{block}/mlp_norm", f"{theirs}.layernorm_after"),
        *dense(f"{block}/mlp_in", f"{theirs}.intermediate.dense"),
        *dense(f"{block}/mlp_out", f"{theirs}.output.dense"),
        *norm("norm", f"{root}.layernorm"),
        *dense("head", "classifier"),
    ]


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    tokens = [rule("cls", "vit.embeddings.cls_token"), rule("pos_embed", "vit.embeddings.position_embeddings")]
    return [*tokens, *encoder_rules(params, image, root="vit")]


PEER = Peer(
    format="transformers",
    model="vision_transformer",
    rules=_rules,
    marks=(r"vit\.embeddings\.cls_token", r"vit\.encoder\.layer\.0\.layernorm_before\.weight"),
    ignored=r"vit\.pooler\..*|.*\.position_ids",
    settings=(("gelu", "exact"),),
)
