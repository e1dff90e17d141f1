"""Hugging Face's ResNetForImageClassification."""

from typing import Any

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, batch_norm, conv, dense


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    if params.norm != "batch" or params.stem == "deep":
        raise ConfigError(
            f"found norm {params.norm!r} and stem {params.stem!r}; expected norm batch and no deep stem, as there",
            path="model.params",
        )
    stem, block, theirs = "resnet.embedder.embedder", "stage{s}_{i}", "resnet.encoder.stages.{s}.layers.{i}"
    return [
        *conv("Conv_0", f"{stem}.convolution"),
        *batch_norm("BatchNorm_0", f"{stem}.normalization"),
        *conv(f"{block}/Conv_{{k}}", f"{theirs}.layer.{{k}}.convolution"),
        *batch_norm(f"{block}/BatchNorm_{{k}}", f"{theirs}.layer.{{k}}.normalization"),
        *conv(f"{block}/shortcut", f"{theirs}.shortcut.convolution"),
        *batch_norm(f"{block}/shortcut_norm", f"{theirs}.shortcut.normalization"),
        *dense("head", "classifier.1"),
    ]


PEER = Peer(
    format="transformers",
    model="resnet",
    rules=_rules,
    marks=(r"resnet\.embedder\.embedder\.convolution\.weight", r"resnet\.encoder\.stages\.0\.layers\.0\..*"),
    ignored=r".*\.num_batches_tracked",
)
