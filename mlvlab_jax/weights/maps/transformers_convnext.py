"""Hugging Face's ConvNextForImageClassification."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, conv, dense, norm, rule
from mlvlab_jax.weights.transforms import patches


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    widths = [width for _, width in params.stages()]
    root, block, theirs = "convnext", "stage{s}_{i}", "convnext.encoder.stages.{s}.layers.{i}"
    return [
        *dense("stage0_reduce", f"{root}.embeddings.patch_embeddings", patches(image.channels)),
        *norm("stem_norm", f"{root}.embeddings.layernorm"),
        *norm("stage{s}_norm", f"{root}.encoder.stages.{{s}}.downsampling_layer.0"),
        *(
            each
            for stage, width in enumerate(widths[:-1], start=1)
            for each in dense(
                f"stage{stage}_reduce", f"{root}.encoder.stages.{stage}.downsampling_layer.1", patches(width)
            )
        ),
        *conv(f"{block}/depthwise", f"{theirs}.dwconv"),
        *norm(f"{block}/norm", f"{theirs}.layernorm"),
        *dense(f"{block}/mlp_in", f"{theirs}.pwconv1"),
        *dense(f"{block}/mlp_out", f"{theirs}.pwconv2"),
        rule(f"{block}/layer_scale", f"{theirs}.layer_scale_parameter"),
        *norm("norm", f"{root}.layernorm"),
        *dense("head", "classifier"),
    ]


PEER = Peer(
    format="transformers",
    model="convnext",
    rules=_rules,
    marks=(
        r"convnext\.embeddings\.patch_embeddings\.weight",
        r"convnext\.encoder\.stages\.0\.layers\.0\.dwconv\.weight",
    ),
)
