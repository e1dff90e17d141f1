"""Where each parameter lies: ordered (regular expression, tactic) rules, first match wins.

A tactic is a function of (shape, mesh) to a PartitionSpec; a dim that an axis does not divide stays whole.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlvlab_jax.trees import is_stacked, map_with_name, match_rules, named_leaves
from mlvlab_jax.types import Tree

Shape = tuple[int, ...]
Tactic = Callable[[Shape, Mesh], P]

_SMALLEST_SHARDED = 1024


def _axis_if_divides(axis: str, size: int, mesh: Mesh) -> str | None:
    return axis if mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None


def column(shape: Shape, mesh: Mesh) -> P:
    """Outputs over tensor, inputs over fsdp: first product of a pair, such as qkv or the first MLP layer."""
    outputs = _axis_if_divides("tensor", shape[-1], mesh)
    if len(shape) == 1:
        return P(outputs)
    return P(*[None] * (len(shape) - 2), _axis_if_divides("fsdp", shape[-2], mesh), outputs)


def row(shape: Shape, mesh: Mesh) -> P:
    """Inputs over tensor, outputs over fsdp: second product of a pair; its bias is whole."""
    if len(shape) == 1:
        return P()
    inputs, outputs = (_axis_if_divides(axis, shape[i], mesh) for axis, i in (("tensor", -2), ("fsdp", -1)))
    return P(*[None] * (len(shape) - 2), inputs, outputs)


def fsdp(shape: Shape, mesh: Mesh) -> P:
    """The largest dim that fsdp divides is spread over it; small parameters stay whole."""
    size = 1
    for dim in shape:
        size *= dim
    fitting = [i for i, dim in enumerate(shape) if _axis_if_divides("fsdp", dim, mesh)]
    if size < _SMALLEST_SHARDED or not fitting:
        return P()
    largest = max(fitting, key=lambda i: shape[i])
    return P(*["fsdp" if i == largest else None for i in range(len(shape))])


RULES: tuple[tuple[str, Tactic], ...] = (
    (r"(^|/)(qkv|mlp_in)/(kernel|bias)$", column),
    (r"(^|/)(out|mlp_out)/(kernel|bias)$", row),
    (r".*", fsdp),
)


def shard_params(params: Tree, mesh: Mesh) -> Tree:
    """A NamedSharding for each parameter (or its shape); of stacked layers each lies as it would alone."""

    def place(name: str, leaf: Any) -> NamedSharding:
        tactic: Tactic = match_rules(name, RULES, path="mesh")
        if is_stacked(name):
            return NamedSharding(mesh, P(None, *tactic(leaf.shape[1:], mesh)))
        return NamedSharding(mesh, tactic(leaf.shape, mesh))

    return map_with_name(place, params)


def shard_like(tree: Tree, params: Tree, shardings: Tree, mesh: Mesh) -> Tree:
    """A sharding for each leaf of `tree`: that of the parameter whose name ends the leaf's name, else replicated.

    Optimiser states and averages hold copies of the parameter tree, so they follow their parameters by this rule.
    """
    by_name = {
        name: (leaf.shape, sharding)
        for (name, leaf), sharding in zip(named_leaves(params), jax.tree.leaves(shardings), strict=True)
    }

    def place(name: str, leaf: Any) -> NamedSharding:
        parts = name.split("/")
        for start in range(len(parts)):
            shape, sharding = by_name.get("/".join(parts[start:]), (None, None))
            if sharding is not None and shape == leaf.shape:
                return sharding
        return NamedSharding(mesh, P())

    return map_with_name(place, tree)
