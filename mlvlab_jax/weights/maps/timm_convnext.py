"""timm's convnext_*."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, conv, dense, norm, rule
from mlvlab_jax.weights.transforms import patches


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    widths = [width for _, width in params.stages()]
    block, theirs = "stage{s}_{i}", "stages.{s}.blocks.{i}"
    return [
        *dense("stage0_reduce", "stem.0", patches(image.channels)),
        *norm("stem_norm", "stem.1"),
        *norm("stage{s}_norm", "stages.{s}.downsample.0"),
        # A matrix does not tell its channels from its squares: each stage has those of the one before.
        *(
            each
            for stage, width in enumerate(widths[:-1], start=1)
            for each in dense(f"stage{stage}_reduce", f"stages.{stage}.downsample.1", patches(width))
        ),
        *conv(f"{block}/depthwise", f"{theirs}.conv_dw"),
        *norm(f"{block}/norm", f"{theirs}.norm"),
        *dense(f"{block}/mlp_in", f"{theirs}.mlp.fc1"),
        *dense(f"{block}/mlp_out", f"{theirs}.mlp.fc2"),
        rule(f"{block}/layer_scale", f"{theirs}.gamma"),
        *norm("norm", "head.norm"),
        *dense("head", "head.fc"),
    ]


PEER = Peer(
    format="timm",
    model="convnext",
    rules=_rules,
    marks=(r"stem\.0\.weight", r"stages\.0\.blocks\.0\.conv_dw\.weight"),
)
