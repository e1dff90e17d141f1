"""timm's tf_efficientnetv2_*."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, batch_norm, conv, dense
from mlvlab_jax.weights.transforms import POINTWISE

#: Kind of a stage -> (our layer, its convolution there) in order; the normalisations there are counted.
_LAYERS = {
    "conv": (("project", "conv"),),
    "fused": (("expand", "conv_exp"), ("project", "conv_pwl")),
    "depthwise": (("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl")),
}


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    rules = [
        *conv("stem", "conv_stem"),
        *batch_norm("stem_norm", "bn1"),
        *conv("top", "conv_head"),
        *batch_norm("top_norm", "bn2"),
        *dense("head", "classifier"),
    ]
    for number, stage in enumerate(params.resolved()[1]):
        block, theirs = f"stage{number}_{{i}}", f"blocks.{number}.{{i}}"
        for k, (ours, layer) in enumerate(_LAYERS[stage.kind], start=1):
            rules += [
                *conv(f"{block}/{ours}", f"{theirs}.{layer}"),
                *batch_norm(f"{block}/{ours}_norm", f"{theirs}.bn{k}"),
            ]
        rules += dense(f"{block}/squeeze", f"{theirs}.se.conv_reduce", POINTWISE)
        rules += dense(f"{block}/excite", f"{theirs}.se.conv_expand", POINTWISE)
    return rules


PEER = Peer(
    format="timm",
    model="efficientnet_v2",
    rules=_rules,
    marks=(r"conv_stem\.weight", r"blocks\.1\.0\.conv_exp\.weight"),
    ignored=r".*\.num_batches_tracked",
)
