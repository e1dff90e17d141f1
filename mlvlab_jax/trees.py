"""Pytrees by path: 'a/b/kernel' names, regex rules that must cover every leaf, counts and digests."""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.types import Tree

T = TypeVar("T")

#: How the name of a module begins that holds several layers, each of its leaves stacked over them.
STACKED = "stacked_"


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_with_name(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`jax.tree.map` whose function is given the leaf's 'a/b/kernel' name first."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(_name(path), *leaves), tree, *rest)


def is_stacked(name: str) -> bool:
    """Whether a leaf holds the parameters of several layers, with the layers as its first dim."""
    return any(part.startswith(STACKED) for part in name.split("/"))


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """(name, leaf) pairs in tree order."""
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def match_rules(name: str, rules: Sequence[tuple[str, T]], *, path: str) -> T:
    """Value of the first rule whose regular expression is found in `name`.

    Args:
        name: Leaf name.
        rules: (regular expression, value) pairs, first match wins.
        path: Config path of the rules, for the message.

    Raises:
        ConfigError: No rule matches: an uncovered parameter is a mistake, never a default.
    """
    for pattern, value in rules:
        if re.search(pattern, name):
            return value
    raise ConfigError(f"no rule matches parameter {name!r}; add one, for example a last ['.*', ...]", path=path)


def count_elements(tree: Tree) -> int:
    """Number of scalars in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def compute_digest(tree: Tree) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all leaves: equal digests mean bitwise equal trees."""
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(jax.device_get(tree)), key=lambda pair: pair[0]):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
