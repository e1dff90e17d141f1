"""Digests of arrays as each device holds them, and the devices whose bits are not those of the others."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlvlab_jax.engine.distributed import gather
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import Tree

#: 2^32 / golden ratio, and the multipliers of MurmurHash3's finaliser: all odd, so that nothing is lost mod 2^32.
_SPREAD, _FIRST, _SECOND = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


class Difference(NamedTuple):
    """An array whose bits are not what they should be.

    name: its path, such as variables/params/head/kernel. devices: where, as positions in the mesh, in order.
    """

    name: str
    devices: tuple[int, ...]


def digest_bits(array: jax.Array) -> jax.Array:
    """A digest of an array's bits and their order, uint32 ().

    Arrays that differ within one word (32 bits, or an element where that is smaller) never have the same digest: the
    words are mixed by a bijection, and the sum is mod 2^32. Others have it by a chance of 2^-32. A bool counts as 0 or
    1. Read once, in no particular order.

    References:
        A. Appleby, MurmurHash3 (2011), for the mixing of a word.
    """
    words = _as_words(array)
    return _mix(words + _positions(words.shape) * jnp.uint32(_SPREAD)).sum(dtype=jnp.uint32)


def _as_words(array: jax.Array) -> jax.Array:
    if array.dtype != jnp.bool_:
        array = jax.lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
    return array.astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Row-major number of each element, without a reshape, which would move the array on some devices."""
    positions = jnp.zeros(shape, jnp.uint32)
    for dim, size in enumerate(shape):
        positions = positions * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, dim)
    return positions


def _mix(words: jax.Array) -> jax.Array:
    words = (words ^ (words >> 16)) * jnp.uint32(_FIRST)
    words = (words ^ (words >> 13)) * jnp.uint32(_SECOND)
    return words ^ (words >> 16)


def make_digests(layout: Tree, mesh: Mesh) -> Callable[[Tree], jax.Array]:
    """A jitted function from a tree to the digest of what each device holds of each leaf, uint32 (devices, leaves).

    No device learns of another, so that none can hide that its copy differs.

    Args:
        layout: NamedShardings of the tree.
        mesh: Theirs; its order of devices is that of the rows.
    """

    def of_device(tree: Tree) -> jax.Array:
        return jnp.stack([digest_bits(leaf) for leaf in jax.tree.leaves(tree)])[None]

    specs = jax.tree.map(lambda sharding: sharding.spec, layout)
    # Replicas are what is in question: nothing may be concluded from their being declared equal.
    mapped = jax.shard_map(of_device, mesh=mesh, in_specs=(specs,), out_specs=P(mesh.axis_names), check_vma=False)
    return jax.jit(mapped, in_shardings=(layout,))


def read_digests(digests: jax.Array) -> np.ndarray:
    """What `make_digests` gave, on the host, uint32 (devices, leaves), in every process; all of them must call it."""
    shards = digests.addressable_shards
    values = jax.device_get([shard.data for shard in shards])
    own = [(shard.index[0].start or 0, rows[0].tolist()) for shard, rows in zip(shards, values, strict=True)]
    rows = sorted((position, row) for of_process in gather(own) for position, row in of_process)
    return np.array([row for _, row in rows], np.uint32)


def find_changes(before: np.ndarray, after: np.ndarray, layout: Tree) -> list[Difference]:
    """Leaves whose digests are not the same both times, and on which devices.

    Args:
        before: uint32 (devices, leaves).
        after: Likewise.
        layout: NamedShardings of the tree.
    """
    names = [name for name, _ in named_leaves(layout)]
    changed = before != after
    return [_difference(names[leaf], np.flatnonzero(changed[:, leaf])) for leaf in np.flatnonzero(changed.any(axis=0))]


def find_outliers(digests: np.ndarray, layout: Tree, mesh: Mesh) -> list[Difference]:
    """Leaves of which devices that should hold the same hold different bits, and the devices in the minority.

    Without a majority, as of two copies, all that should hold the same are named.

    Args:
        digests: uint32 (devices, leaves).
        layout: NamedShardings of the tree.
        mesh: Theirs.
    """
    found = []
    for leaf, (name, sharding) in enumerate(named_leaves(layout)):
        groups = _find_copies(sharding, mesh)
        values = digests[groups, leaf]
        disagreeing = np.flatnonzero((values != values[:, :1]).any(axis=1))
        outliers = [groups[group][_is_outlier(values[group])] for group in disagreeing]
        if outliers:
            found.append(_difference(name, np.concatenate(outliers)))
    return found


def _find_copies(sharding: NamedSharding, mesh: Mesh) -> np.ndarray:
    """Positions in the mesh, int (parts, copies): a row for each part of the array, the devices that hold it."""
    used = {axis for axes in sharding.spec if axes for axis in ((axes,) if isinstance(axes, str) else axes)}
    spread = [i for i, axis in enumerate(mesh.axis_names) if axis in used]
    whole = [i for i, axis in enumerate(mesh.axis_names) if axis not in used]
    positions = np.arange(mesh.size).reshape(mesh.devices.shape).transpose(*spread, *whole)
    num_copies = int(np.prod([mesh.devices.shape[i] for i in whole], dtype=int))
    return positions.reshape(-1, num_copies)


def _is_outlier(values: np.ndarray) -> np.ndarray:
    """Which copies are not as most are; all of them where no value has a majority."""
    distinct, counts = np.unique(values, return_counts=True)
    if 2 * counts.max() <= len(values):
        return np.ones(len(values), bool)
    outlier: np.ndarray = values != distinct[counts.argmax()]
    return outlier


def _difference(name: str, devices: np.ndarray) -> Difference:
    return Difference(name, tuple(sorted(devices.tolist())))
