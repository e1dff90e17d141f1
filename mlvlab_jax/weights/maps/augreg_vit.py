"""Vision transformers of google-research/vision_transformer ("How to train your ViT?") and of big_vision, as .npz.

The two count the parts of a block differently: dropout is a part in the first.
"""

import functools
from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, rule
from mlvlab_jax.weights.transforms import SAME, Transform, flax_out, flax_patches, flax_qkv


def _layer(ours: str, theirs: str, transform: Transform = SAME) -> list[Rule]:
    return [rule(f"{ours}/kernel", f"{theirs}/kernel", transform), rule(f"{ours}/bias", f"{theirs}/bias")]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [rule(f"{ours}/{name}", f"{theirs}/{name}") for name in ("scale", "bias")]


def _rules(
    params: Any, image: ImageSpec, names: frozenset[str], *, positions: str, attention: int, mlp: int, norm: int
) -> list[Rule]:
    block, theirs, num_heads = "block{i}", "Transformer/encoderblock_{i}", params.resolved().num_heads
    inner = f"{theirs}/MultiHeadDotProductAttention_{attention}"
    qkv = flax_qkv(num_heads)
    return [
        rule("cls", "cls"),
        rule("pos_embed", positions),
        *_layer("patch_embed", "embedding", flax_patches(image.channels)),
        *_norm(f"{block}/attention_norm", f"{theirs}/LayerNorm_0"),
        *(
            Rule(
                (f"params/{block}/attention/qkv/{name}",),
                tuple(f"{inner}/{part}/{name}" for part in ("query", "key", "value")),
                qkv,
            )
            for name in ("kernel", "bias")
        ),
        *_layer(f"{block}/attention/out", f"{inner}/out", flax_out(num_heads)),
        *_norm(f"{block}/mlp_norm", f"{theirs}/LayerNorm_{norm}"),
        *_layer(f"{block}/mlp_in", f"{theirs}/MlpBlock_{mlp}/Dense_0"),
        *_layer(f"{block}/mlp_out", f"{theirs}/MlpBlock_{mlp}/Dense_1"),
        *_norm("norm", "Transformer/encoder_norm"),
        *_pool_rules(num_heads),
        *_layer("head", "head"),
    ]


def _pool_rules(num_heads: int) -> list[Rule]:
    """Of attention to one learned query, in place of a class token."""
    theirs = "MAPHead_0"
    inner = f"{theirs}/MultiHeadDotProductAttention_0"
    query, both = flax_qkv(num_heads, parts=1), flax_qkv(num_heads, parts=2)
    return [
        rule("map/probe", f"{theirs}/probe"),
        *(rule(f"map/q/{name}", f"{inner}/query/{name}", query) for name in ("kernel", "bias")),
        *(
            Rule((f"params/map/kv/{name}",), (f"{inner}/key/{name}", f"{inner}/value/{name}"), both)
            for name in ("kernel", "bias")
        ),
        *_layer("map/out", f"{inner}/out", flax_out(num_heads)),
        *_norm("map/norm", f"{theirs}/LayerNorm_0"),
        *_layer("map/mlp_in", f"{theirs}/MlpBlock_0/Dense_0"),
        *_layer("map/mlp_out", f"{theirs}/MlpBlock_0/Dense_1"),
    ]


AUGREG = Peer(
    format="augreg",
    model="vision_transformer",
    rules=functools.partial(_rules, positions="Transformer/posembed_input/pos_embedding", attention=1, mlp=3, norm=2),
    marks=(r"embedding/kernel", r"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"),
    of_head=r"pre_logits/.*",
    settings=(("gelu", "tanh"),),
)
BIG_VISION = Peer(
    format="big_vision",
    model="vision_transformer",
    rules=functools.partial(_rules, positions="pos_embedding", attention=0, mlp=0, norm=1),
    marks=(r"embedding/kernel", r"Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"),
    of_head=r"pre_logits/.*",
    settings=(("gelu", "tanh"),),
)
