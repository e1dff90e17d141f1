"""Digests see any flipped bit and any change of order, device by device, and name the device that is not as the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.engine.bit_flips import flip_bit
from mlvlab_jax.engine.digests import (
    Difference,
    digest_bits,
    find_changes,
    find_outliers,
    make_digests,
    read_digests,
)
from mlvlab_jax.engine.mesh import make_mesh

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint32, jnp.int8)


def expected_digest(array):
    """By numpy, in wide arithmetic."""
    words = np.frombuffer(array.tobytes(), f"u{array.dtype.itemsize}").astype(object)
    total = 0
    for position, word in enumerate(words):
        word = (word + position * 0x9E3779B9) % 2**32
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            word = (word ^ word >> shift) * factor % 2**32
        total += word ^ word >> 16
    return total % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["random", "zeros"])
def test_any_single_flipped_bit_changes_the_digest(dtype, kind):
    size = jnp.dtype(dtype).itemsize
    shape = (5, 3, 7)
    data = np.random.default_rng(0).bytes(105 * size) if kind == "random" else bytes(105 * size)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    flipped = np.packbits(bits[None] ^ np.eye(len(bits), dtype=np.uint8), axis=1, bitorder="little")
    arrays = flipped.view(jnp.dtype(dtype)).reshape(-1, *shape)
    assert len(arrays) == 105 * 8 * size
    whole = np.frombuffer(data, jnp.dtype(dtype)).reshape(shape)
    digest = int(digest_bits(jnp.asarray(whole)))
    assert digest == expected_digest(whole)
    assert digest not in np.asarray(jax.jit(jax.vmap(digest_bits))(arrays)).tolist()


def test_the_mixing_is_that_of_murmurhash3():
    # Its hash of nothing with seed 1 is the finaliser of 1: 0x514E28B7.
    assert int(digest_bits(jnp.uint32(1))) == 0x514E28B7


def test_swapped_values_and_another_order_change_the_digest():
    # These differ by 2^23, so weights 1, 3, 5, ... mod 2^32 do not see a swap 256 apart.
    values = np.where(np.arange(1024) % 512 < 256, 1.0, 2.0).astype(np.float32)
    swapped = np.tile(values, (512, 1))
    for row in range(512):
        swapped[row, [row, row + 256]] = values[[row + 256, row]]
    digest = int(digest_bits(jnp.asarray(values)))
    changed = (swapped != values).any(axis=1)
    assert changed.sum() == 512
    assert digest not in np.asarray(jax.vmap(digest_bits)(swapped)).tolist()
    assert digest != int(digest_bits(jnp.asarray(values[::-1])))
    assert digest != int(digest_bits(jnp.asarray(np.roll(values, 1))))


def test_bools_and_arrays_without_elements_have_digests_too():
    assert int(digest_bits(jnp.array([True, False]))) == expected_digest(np.array([1, 0], np.uint32))
    assert int(digest_bits(jnp.zeros((0, 3)))) == 0


SPECS = {
    "whole": P(),
    "fsdp": P(None, "fsdp"),
    "tensor": P("tensor"),
    "both": P("tensor", "fsdp"),
    "together": P(("fsdp", "tensor")),
    "batch": P(("data", "fsdp")),
    "everywhere": P(("data", "fsdp"), "tensor"),
}


def make_tree():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    layout = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    values = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    return mesh, layout, {name: jax.device_put(values, sharding) for name, sharding in layout.items()}


def test_each_device_digests_what_it_holds():
    mesh, layout, tree = make_tree()
    found = read_digests(make_digests(layout, mesh)(tree))
    assert found.shape == (8, len(SPECS))
    devices = mesh.devices.reshape(-1)
    for leaf, name in enumerate(sorted(SPECS)):
        held = {shard.device: expected_digest(np.asarray(shard.data)) for shard in tree[name].addressable_shards}
        assert found[:, leaf].tolist() == [held[device] for device in devices], name
    assert find_outliers(found, layout, mesh) == []


def test_a_flip_on_one_device_is_told_from_the_copies_of_the_same_part():
    mesh, layout, tree = make_tree()
    digests = make_digests(layout, mesh)
    clean = read_digests(digests(tree))
    for leaf, name in enumerate(sorted(SPECS)):
        places = layout[name].devices_indices_map((8, 8))
        for device in range(8):
            dirty = read_digests(digests(flip_bit(tree, f"flip:{leaf}:{device}:30")))
            assert find_changes(clean, dirty, layout) == [Difference(name, (device,))]
            own = places[mesh.devices.flat[device]]
            copies = tuple(i for i, other in enumerate(mesh.devices.flat) if places[other] == own)
            named = {1: [], 2: [Difference(name, copies)]}.get(len(copies), [Difference(name, (device,))])
            assert find_outliers(dirty, layout, mesh) == named


def test_the_minority_is_named_and_all_where_there_is_none():
    mesh = make_mesh(MeshConfig(data=8))
    layout = {"a": NamedSharding(mesh, P()), "b": NamedSharding(mesh, P())}
    same = [5] * 8
    for column, expected in {
        (5, 5, 5, 7, 5, 8, 5, 5): (3, 5),
        (5, 7, 7, 7, 7, 7, 5, 5): (0, 6, 7),
        (5, 5, 5, 5, 7, 7, 7, 7): tuple(range(8)),
        (1, 1, 1, 2, 3, 4, 5, 6): tuple(range(8)),
    }.items():
        digests = np.array([same, column], np.uint32).T
        assert find_outliers(digests, layout, mesh) == [Difference("b", expected)]
