"""From one array layout to another and back, without arithmetic: what goes out and comes in again has the same bits.

They take numpy arrays and, for their shapes alone, jax tracers.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

Arrays = tuple[Any, ...]


class Transform(NamedTuple):
    """to_ours: arrays of theirs -> ours, in the order of a rule's names. to_theirs: the inverse."""

    to_ours: Callable[..., Arrays]
    to_theirs: Callable[..., Arrays]


SAME = Transform(lambda *arrays: arrays, lambda *arrays: arrays)
#: A matrix (out, in) of torch, ours (in, out).
LINEAR = Transform(lambda x: (x.T,), lambda x: (x.T,))
#: A convolution OIHW of torch, ours HWIO; for filters of single channels as well.
KERNEL = Transform(lambda x: (x.transpose(2, 3, 1, 0),), lambda x: (x.transpose(3, 2, 0, 1),))
#: A convolution (out, in, 1, 1) of torch, ours a matrix (in, out).
POINTWISE = Transform(lambda x: (x.reshape(x.shape[:2]).T,), lambda x: (x.T.reshape(*x.T.shape, 1, 1),))


def patches(channels: int) -> Transform:
    """A convolution OIHW whose stride is its size; ours is a matrix on flattened squares of pixels."""

    def to_theirs(x: Any) -> Arrays:
        side = math.isqrt(x.shape[0] // channels)
        return (x.reshape(side, side, channels, -1).transpose(3, 2, 0, 1),)

    return Transform(lambda x: (x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),), to_theirs)


def flax_patches(channels: int) -> Transform:
    """The same of a convolution HWIO."""

    def to_theirs(x: Any) -> Arrays:
        side = math.isqrt(x.shape[0] // channels)
        return (x.reshape(side, side, channels, -1),)

    return Transform(lambda x: (x.reshape(-1, x.shape[-1]),), to_theirs)


def fused_qkv(num_heads: int, *, parts: int = 3) -> Transform:
    """Matrix (3 d, d) or bias (3 d) of all queries, all keys, all values; ours has the three of a head together.

    Args:
        num_heads: Of the attention.
        parts: 3, or 2 for keys and values alone.
    """

    def to_ours(x: Any) -> Arrays:
        heads = x.reshape(parts, num_heads, -1, *x.shape[1:]).swapaxes(0, 1)
        return (heads.reshape(x.shape).T,)

    def to_theirs(x: Any) -> Arrays:
        x = x.T
        return (x.reshape(num_heads, parts, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape),)

    return Transform(to_ours, to_theirs)


def separate_qkv(num_heads: int) -> Transform:
    """Three matrices (d, d) or biases (d), of queries, keys and values; else as `fused_qkv`."""
    fused = fused_qkv(num_heads)

    def to_theirs(x: Any) -> Arrays:
        (whole,) = fused.to_theirs(x)
        cut = whole.reshape(3, -1, *whole.shape[1:])
        return tuple(cut[i] for i in range(3))

    return Transform(lambda *arrays: fused.to_ours(concatenate(arrays)), to_theirs)


def flax_qkv(num_heads: int, *, parts: int = 3) -> Transform:
    """Three kernels (d, heads, width) or biases (heads, width) of Flax's attention; else as `fused_qkv`."""

    def to_ours(*arrays: Any) -> Arrays:
        heads = concatenate(arrays, axis=-1)
        return (heads.reshape(*heads.shape[:-2], -1),)

    def to_theirs(x: Any) -> Arrays:
        heads = x.reshape(*x.shape[:-1], num_heads, parts, -1)
        return tuple(heads[..., i, :] for i in range(parts))

    return Transform(to_ours, to_theirs)


def flax_out(num_heads: int) -> Transform:
    """Kernel (heads, width, d) of Flax's attention."""
    return Transform(
        lambda x: (x.reshape(-1, x.shape[-1]),),
        lambda x: (x.reshape(num_heads, -1, x.shape[-1]),),
    )


def concatenate(parts: Any, axis: int = 0) -> Any:
    """The arrays one after the other; numpy's and jax's have this function under one name."""
    return parts[0].__array_namespace__().concat(list(parts), axis=axis)
