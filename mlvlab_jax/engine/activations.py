"""Keeps every example on its devices where weights are spread: weights travel to the examples, never the reverse."""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def keep_examples_in_place(mesh: Mesh, *, batch_size: int) -> contextlib.AbstractContextManager[Any]:
    """While it is open, what modules return stays spread over data and fsdp by examples, and so do its gradients.

    Left to itself the partitioner may gather the activations of all examples, or sum whole layers' outputs, in place of
    gathering a layer's weights and scattering its gradient: of a ViT-L on 16 devices it sends 30 times as much. Values
    do not change, and nothing is asked of the other dims, so that tensor parallelism is left alone. Without fsdp there
    is nothing to decide.

    Args:
        mesh: Where the step runs.
        batch_size: Examples in a batch; a module sees them all, or an even part of them.
    """
    if mesh.shape["fsdp"] == 1:
        return contextlib.nullcontext()
    ways = mesh.shape["data"] * mesh.shape["fsdp"]

    def keep(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        is_examples = isinstance(result, jax.Array) and result.ndim > 1 and batch_size % result.shape[0] == 0
        if context.method_name != "__call__" or not is_examples or result.shape[0] % ways:
            return result
        rest = [PartitionSpec.UNCONSTRAINED] * (result.ndim - 1)
        spec = PartitionSpec(("data", "fsdp"), *rest)
        return jax.lax.with_sharding_constraint(result, NamedSharding(mesh, spec))

    manager: contextlib.AbstractContextManager[Any] = nn.intercept_methods(keep)
    return manager
