"""Host batches to global arrays laid over the mesh, one batch ahead of the step that needs it."""

from collections.abc import Iterator

import jax
from jax.sharding import NamedSharding

from mlvlab_jax.types import HostBatch, Tree


def to_device(batch: HostBatch, sharding: NamedSharding) -> Tree:
    """This process's rows as one global array a field, without a host copy of the whole batch."""
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), dict(batch))


def double_buffer(batches: Iterator[HostBatch], sharding: NamedSharding) -> Iterator[Tree]:
    """Device batches; the transfer of the next one is under way while the caller works on the last."""
    ahead = None
    for batch in batches:
        placed = to_device(batch, sharding)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
