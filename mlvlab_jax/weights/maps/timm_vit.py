"""timm's vit_*, deit_* and deit3_*."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, dense, norm, rule
from mlvlab_jax.weights.transforms import fused_qkv, patches


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    block, theirs, size = "block{i}", "blocks.{i}", params.resolved()
    qkv, kv = fused_qkv(size.num_heads), fused_qkv(size.num_heads, parts=2)
    # What normalises a mean is called fc_norm; what normalises all tokens norm.
    last = "fc_norm" if getattr(params, "final_norm", "tokens") == "pooled" else "norm"
    return [
        rule("cls", "cls_token"),
        rule("registers", "reg_token"),
        rule("pos_embed", "pos_embed"),
        *dense("patch_embed", "patch_embed.proj", patches(image.channels)),
        *norm(f"{block}/attention_norm", f"{theirs}.norm1"),
        rule(f"{block}/attention/qkv/kernel", f"{theirs}.attn.qkv.weight", qkv),
        rule(f"{block}/attention/qkv/bias", f"{theirs}.attn.qkv.bias", qkv),
        *norm(f"{block}/attention/q_norm", f"{theirs}.attn.q_norm"),
        *norm(f"{block}/attention/k_norm", f"{theirs}.attn.k_norm"),
        *dense(f"{block}/attention/out", f"{theirs}.attn.proj"),
        rule(f"{block}/attention_scale", f"{theirs}.ls1.gamma"),
        *norm(f"{block}/mlp_norm", f"{theirs}.norm2"),
        *dense(f"{block}/mlp_in", f"{theirs}.mlp.fc1"),
        *dense(f"{block}/mlp_out", f"{theirs}.mlp.fc2"),
        rule(f"{block}/mlp_scale", f"{theirs}.ls2.gamma"),
        *norm("norm", last),
        rule("map/probe", "attn_pool.latent"),
        *dense("map/q", "attn_pool.q"),
        rule("map/kv/kernel", "attn_pool.kv.weight", kv),
        rule("map/kv/bias", "attn_pool.kv.bias", kv),
        *dense("map/out", "attn_pool.proj"),
        *norm("map/norm", "attn_pool.norm"),
        *dense("map/mlp_in", "attn_pool.mlp.fc1"),
        *dense("map/mlp_out", "attn_pool.mlp.fc2"),
        *dense("head", "head"),
    ]


PEER = Peer(
    format="timm",
    model="vision_transformer",
    rules=_rules,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
    settings=(("gelu", "exact"),),
)
