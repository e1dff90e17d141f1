"""Host batches to global arrays laid over the mesh, one batch ahead of the step that needs it."""

import functools
from collections.abc import Callable, Iterator

import jax
from jax.sharding import NamedSharding

from mlvlab_jax.types import HostBatch, Tree


def make_placement(sharding: NamedSharding) -> Callable[[HostBatch], Tree]:
    """A function from this process's rows of a batch to one global array a field.

    On one device the rows go in as arguments of an empty compiled program: 35 us for five arrays, where `device_put`
    takes 205 us of Python (two CPU cores, jax 0.12). Of several processes each hands its devices their own rows; nobody
    ever holds the whole batch.
    """
    if sharding.num_devices > 1 and jax.process_count() == 1:
        return lambda batch: jax.device_put(dict(batch), sharding)
    enter: Callable[[Tree], Tree]
    if sharding.num_devices > 1:
        enter = functools.partial(jax.make_array_from_process_local_data, sharding)
    else:
        enter = jax.jit(lambda batch: batch, in_shardings=sharding, out_shardings=sharding)

    def place(batch: HostBatch) -> Tree:
        with jax.transfer_guard_host_to_device("allow"):
            return enter(dict(batch))

    return place


def double_buffer(batches: Iterator[HostBatch], sharding: NamedSharding) -> Iterator[Tree]:
    """Device batches; the transfer of the next one is under way while the caller works on the last."""
    place, ahead = make_placement(sharding), None
    for batch in batches:
        placed = place(batch)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
