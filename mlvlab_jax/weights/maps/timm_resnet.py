"""timm's resnet18 to resnet152 and their -D and group-norm forms; torchvision's, which have the same names."""

from collections.abc import Callable
from typing import Any

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule, batch_norm, conv, dense, norm


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    if params.norm == "group_standardized":
        raise ConfigError(
            "'group_standardized' makes other kernels of the same arrays than timm; expected batch or group",
            path="model.params.norm",
        )
    block, theirs = "stage{s}_{i}", "layer{s+1}.{i}"
    kind, normalise = ("BatchNorm", batch_norm) if params.norm == "batch" else ("GroupNorm", norm)
    # With a deep stem a pooling comes before the convolution of the shortcut.
    shortcut = 1 if params.stem == "deep" else 0
    return [
        *(_deep_stem(kind, normalise) if params.stem == "deep" else conv("Conv_0", "conv1")),
        *normalise(f"{kind}_{2 * shortcut}", "bn1"),
        *conv(f"{block}/Conv_{{k}}", f"{theirs}.conv{{k+1}}"),
        *normalise(f"{block}/{kind}_{{k}}", f"{theirs}.bn{{k+1}}"),
        *conv(f"{block}/shortcut", f"{theirs}.downsample.{shortcut}"),
        *normalise(f"{block}/shortcut_norm", f"{theirs}.downsample.{shortcut + 1}"),
        *dense("head", "fc"),
    ]


def _deep_stem(kind: str, normalise: Callable[[str, str], list[Rule]]) -> list[Rule]:
    """Three convolutions; the last normalisation has a name of its own."""
    convs = [each for i in range(3) for each in conv(f"Conv_{i}", f"conv1.{3 * i}")]
    return convs + [each for i in range(2) for each in normalise(f"{kind}_{i}", f"conv1.{3 * i + 1}")]


PEER = Peer(
    format="timm",
    model="resnet",
    rules=_rules,
    marks=(r"layer1\.0\.conv1\.weight", r"layer4\.0\.conv1\.weight"),
    ignored=r".*\.num_batches_tracked",
)
