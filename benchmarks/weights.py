"""Our parameters under the names and in the layout of timm, so that both sides train the same network.

The mapping is a permutation of numbers, so it serves gradients as well.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.maps import PEERS
from mlvlab_jax.weights.table import link, to_theirs

Named = dict[str, np.ndarray]


def name_for_timm(network: str, params: Any, image: ImageSpec, tree: Any) -> Named:
    """Parameters (or gradients) of ours as timm's state dict, by the tables that also import its weights.

    Args:
        network: A model plugin that timm has too.
        params: Its parameters.
        image: What the network is given.
        tree: Nested dict of arrays.
    """
    peer = next(peer for peer in PEERS if (peer.format, peer.model) == ("timm", network))
    arrays = {f"params/{name}": np.asarray(leaf) for name, leaf in named_leaves(tree)}
    named = to_theirs(link(peer, params, image=image, like=arrays), arrays)
    return {name: np.asarray(array) for name, array in named.items()}


def perturb(name: str, value: np.ndarray) -> np.ndarray:
    """The value plus noise of 0.02: a last layer or scale that starts at zero would hide every gradient before it."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    return value + 0.02 * draw.standard_normal(value.shape, np.float32)


def measure_difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Norm of the difference over the norm: of all tensors together, and of the tensor where it is largest.

    A tensor whose norm is below a thousandth of the whole is measured against that.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"other tensors: {sorted(set(ours) ^ set(theirs))[:4]}")
    apart = {name: float(np.linalg.norm(ours[name].ravel() - theirs[name].ravel())) for name in ours}
    norms = {name: float(np.linalg.norm(values.ravel())) for name, values in theirs.items()}
    whole = float(np.linalg.norm(list(norms.values())))
    worst = max(apart[name] / max(norms[name], 1e-3 * whole) for name in apart)
    return {"all": float(np.linalg.norm(list(apart.values()))) / whole, "worst": worst}
