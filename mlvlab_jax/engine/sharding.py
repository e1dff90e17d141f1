"""Where each parameter lies: ordered (regular expression, tactic) rules, first match wins.

A tactic is a function of (shape, mesh) to a PartitionSpec. A dim that fsdp does not divide stays whole; one that tensor
does not divide is refused. `mesh.rules` of the configuration come before those here.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlvlab_jax.errors import ConfigError
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


def whole(shape: Shape, mesh: Mesh) -> P:
    """The whole parameter on every device."""
    return P()


#: By the names that `mesh.rules` uses.
TACTICS = MappingProxyType({"column": column, "row": row, "fsdp": fsdp, "whole": whole})
RULES: tuple[tuple[str, Tactic], ...] = (
    (r"(^|/)(qkv|q|kv|mlp_in)/(kernel|bias)$", column),
    (r"(^|/)(out|mlp_out)/(kernel|bias)$", row),
    (r".*", fsdp),
)


def shard_params(params: Tree, mesh: Mesh, *, rules: Sequence[tuple[str, str]] = ()) -> Tree:
    """A NamedSharding for each parameter (or its shape); of stacked layers each lies as it would alone.

    Args:
        params: Arrays or their shapes.
        mesh: Where they go.
        rules: (regular expression, name of a tactic) pairs that come before the built-in ones.

    Raises:
        ConfigError: A rule decides about no parameter, or tensor does not divide a dim that it is to share.
    """
    ordered = [*((pattern, TACTICS[name]) for pattern, name in rules), *RULES]
    numbered = [(pattern, (number, tactic)) for number, (pattern, tactic) in enumerate(ordered)]
    used: set[int] = set()

    def place(name: str, leaf: Any) -> NamedSharding:
        number, tactic = match_rules(name, numbered, path="mesh.rules")
        used.add(number)
        shape = leaf.shape[1:] if is_stacked(name) else leaf.shape
        spec = tactic(shape, mesh)
        if tactic in (column, row) and len(shape) > 1 and mesh.shape["tensor"] > 1 and "tensor" not in spec:
            size = shape[-1 if tactic is column else -2]
            raise ConfigError(
                f"tensor {mesh.shape['tensor']} does not divide the {size} "
                f"{'outputs' if tactic is column else 'inputs'} of {name!r} {leaf.shape}; expected a divisor; choose "
                "another, or leave the parameter out by a rule of mesh.rules",
                path="mesh.tensor",
            )
        return NamedSharding(mesh, P(None, *spec) if is_stacked(name) else spec)

    placed = map_with_name(place, params)
    for number, (pattern, _) in enumerate(rules):
        if number not in used:
            raise _describe_unused(pattern, number, [name for name, _ in named_leaves(params)])
    return placed


def _describe_unused(pattern: str, number: int, names: list[str]) -> ConfigError:
    found = [name for name in names if re.search(pattern, name)]
    if found:
        why = f"{pattern!r} finds only parameters that rules above it take, such as {found[0]!r}; put it higher"
    else:
        near = difflib.get_close_matches(re.sub(r"[^\w/]", "", pattern), names, n=3, cutoff=0)
        why = f"{pattern!r} is found in none of {len(names)} parameters; the nearest are {', '.join(near)}; correct it"
    return ConfigError(f"{why}, or remove the rule; expected each to decide about one", path=f"mesh.rules[{number}]")


def check_heads(num_heads: int | None, mesh: Mesh) -> None:
    """Refuses a tensor axis that would cut through attention heads; None for a model without.

    Raises:
        ConfigError: Names both numbers.
    """
    tensor = mesh.shape["tensor"]
    if num_heads is not None and num_heads % tensor:
        fits = max(n for n in range(1, tensor + 1) if num_heads % n == 0)
        raise ConfigError(
            f"tensor {tensor} does not divide the model's {num_heads} attention heads (model.params.num_heads); "
            f"expected a divisor; {fits} fits",
            path="mesh.tensor",
        )


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
