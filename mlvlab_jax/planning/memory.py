"""What lies in the memory of each device during a step."""

import math
from typing import Any

import jax

from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.types import Tree


def count_shard_bytes(tree: Tree, shardings: Tree) -> int:
    """Bytes that one device holds of `tree`.

    Args:
        tree: Arrays, or their shapes and types.
        shardings: The sharding of each leaf.
    """
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in leaves)


def count_state_bytes(state: TrainState, layout: TrainState) -> dict[str, int]:
    """Bytes that one device holds of the parts of the state: params, batch_statistics, optimizer, ema.

    Step and key, a few bytes, are counted with the optimiser's state.
    """
    rest = (state.opt_state, state.step, state.key)
    return {
        "params": count_shard_bytes(state.variables.params, layout.variables.params),
        "batch_statistics": count_shard_bytes(state.variables.state, layout.variables.state),
        "optimizer": count_shard_bytes(rest, (layout.opt_state, layout.step, layout.key)),
        "ema": count_shard_bytes(state.ema, layout.ema),
    }


def split_memory(held: dict[str, int], analysis: Any) -> dict[str, int]:
    """Memory of one device by kind, at its fullest.

    Args:
        held: Bytes of the arguments by kind, as they are without padding.
        analysis: `Compiled.memory_analysis()`.

    Returns:
        `held`, and what the compiler adds: padding of the arguments, what is returned and not donated (outputs),
        activations with gradients and scratch, and the program itself.
    """
    return held | {
        "padding": max(0, analysis.argument_size_in_bytes - sum(held.values())),
        "outputs": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "activations": analysis.temp_size_in_bytes,
        "program": analysis.generated_code_size_in_bytes,
    }
