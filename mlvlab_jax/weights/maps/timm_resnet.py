"""timm's resnet18 to resnet152, and torchvision's, which has the same names."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, batch_norm, conv, dense


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    block, theirs = "stage{s}_{i}", "layer{s+1}.{i}"
    return [
        *conv("Conv_0", "conv1"),
        *batch_norm("BatchNorm_0", "bn1"),
        *conv(f"{block}/Conv_{{k}}", f"{theirs}.conv{{k+1}}"),
        *batch_norm(f"{block}/BatchNorm_{{k}}", f"{theirs}.bn{{k+1}}"),
        *conv(f"{block}/shortcut", f"{theirs}.downsample.0"),
        *batch_norm(f"{block}/shortcut_norm", f"{theirs}.downsample.1"),
        *dense("head", "fc"),
    ]


PEER = Peer(
    format="timm",
    model="resnet",
    rules=_rules,
    marks=(r"layer1\.0\.conv1\.weight", r"layer4\.0\.conv1\.weight"),
    ignored=r".*\.num_batches_tracked",
)
