"""Weights under our own names, as packages and `mlvlab weights import` write them; of any model."""

from typing import Any

from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.table import Peer, Rule


def _rules(params: Any, image: ImageSpec, names: frozenset[str]) -> list[Rule]:
    return [Rule((name,), (name,)) for name in sorted(names)]


PEER = Peer(format="mlvlab", model="", rules=_rules, marks=(r"params/.*",))
