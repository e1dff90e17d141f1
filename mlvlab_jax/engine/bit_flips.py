"""Corruption as a device would do it, for tests: one bit of one device's copy."""

import jax
import numpy as np

from mlvlab_jax.types import Tree


def flip_bit(tree: Tree, word: str) -> Tree:
    """`tree` with one bit flipped where one device holds it; the other devices' copies stay.

    Args:
        tree: Arrays on a mesh.
        word: 'flip:LEAF:DEVICE:BIT', each counted from 0: in tree order, in the mesh's order, in the bytes of what the
            device holds of the leaf.
    """
    leaf, position, bit = (int(number) for number in word.removeprefix("flip:").split(":"))
    leaves, structure = jax.tree.flatten(tree)
    array = leaves[leaf]
    device = array.sharding.mesh.devices.flat[position]
    parts = [shard.data for shard in array.addressable_shards]
    for index, part in enumerate(parts):
        if part.device == device:
            values = np.array(jax.device_get(part))
            values.reshape(-1).view(np.uint8)[bit // 8] ^= np.uint8(1 << bit % 8)
            parts[index] = jax.device_put(values, device)
    leaves[leaf] = jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)
    return jax.tree.unflatten(structure, leaves)
