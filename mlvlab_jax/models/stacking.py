"""The two forms of a transformer's parameters: a tree for each block, or one tree stacked over all blocks.

Training scans over the stacked form where `model.params.scan_layers` says so; a package always has the other one, so
that what reads it need not know how it was trained.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import Spec
from mlvlab_jax.trees import STACKED
from mlvlab_jax.types import Tree

STACKED_BLOCKS = f"{STACKED}blocks"


def stack_blocks(params: Tree) -> Tree:
    """Parameters with block0, block1, ... as one `stacked_blocks`, whose leaves have the blocks as their first dim.

    Raises:
        ConfigError: There are no blocks, or one is missing between others.
    """
    blocks = {int(name[5:]): tree for name, tree in params.items() if re.fullmatch(r"block\d+", name)}
    if not blocks or set(blocks) != set(range(len(blocks))):
        raise ConfigError(
            f"found blocks {sorted(blocks)} among the parameters {sorted(params)}; expected block0, block1, ... "
            "without a gap, as a vision transformer has them",
            path="model.params.scan_layers",
        )
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(blocks[i] for i in range(len(blocks))))
    rest = {name: tree for name, tree in params.items() if not re.fullmatch(r"block\d+", name)}
    return rest | {STACKED_BLOCKS: stacked}


def unstack_blocks(params: Tree) -> Tree:
    """The inverse of `stack_blocks`; parameters without stacked blocks are returned as they are."""
    if not isinstance(params, Mapping) or STACKED_BLOCKS not in params:
        return params
    stacked = params[STACKED_BLOCKS]
    num_blocks = len(jax.tree.leaves(stacked)[0])
    blocks = {f"block{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(num_blocks)}
    return {name: tree for name, tree in params.items() if name != STACKED_BLOCKS} | blocks


def unstacked_spec(spec: Spec) -> Spec:
    """The same network with a parameter tree for each block."""
    if not getattr(spec.params, "scan_layers", False):
        return spec
    return Spec(spec.name, dataclasses.replace(spec.params, scan_layers=False))
