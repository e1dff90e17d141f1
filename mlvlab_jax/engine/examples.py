"""Which examples a run has learned from, each batch in its turn, as one number that travels with its progress.

The step itself digests the ids it was given, on the devices, so that the number says what was fed and not what should
have been; it is the same on any mesh and in any number of processes. A batch that is lost, doubled, swapped with
another or holds other examples changes it, but for one chance in 16 million.
"""

import zlib

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

#: What float32 holds exactly, as which it is read beside a step's other numbers.
_BITS = 24


def digest_batch(example_id: Int[Array, " b"], epoch: Int[Array, " b"]) -> Float[Array, ""]:
    """A whole number below 2^24 of a batch's examples in their order.

    Args:
        example_id: Index in the split.
        epoch: How often the split had been passed through.
    """
    row = jnp.arange(len(example_id), dtype=jnp.uint32)
    words = _mix(_mix(_mix(example_id.astype(jnp.uint32)) ^ epoch.astype(jnp.uint32)) ^ row)
    # Whole numbers add up to the same in any order, so on any mesh.
    return (words.sum(dtype=jnp.uint32) >> (32 - _BITS)).astype(jnp.float32)


def append_batch(digest: int, batch: float) -> int:
    """The digest of a run of batches (0 of none), with one more, as `digest_batch` gave it."""
    return zlib.crc32(int(batch).to_bytes(4, "little"), digest)


def _mix(words: UInt[Array, " b"]) -> UInt[Array, " b"]:
    """Every bit in about half of all others.

    References:
        Austin Appleby, MurmurHash3 (its finaliser), 2011.
    """
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return (words ^ (words >> 16)) + jnp.uint32(0x9E3779B9)
