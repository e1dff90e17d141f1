"""Resizing and blurring as two products with small matrices, W_rows @ image @ W_columns^T: fast on any device.

Weights are multiples of 2^-15, so a sum of byte times weight is exact in float32, whatever its order: the result is
the same on every device, mesh and batch size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

_ONE = 2**15


def resample(
    image: UInt8[Array, "h w c"], rows: Float[Array, "h h"], columns: Float[Array, "w w"]
) -> UInt8[Array, "h w c"]:
    """Weighted sums along columns, then rows, rounded to bytes after each as Pillow does.

    Args:
        image: What to sample.
        rows: For each output row the weights of the input rows, in units of 2^-15.
        columns: The same for columns.
    """
    exact = jax.lax.Precision.HIGHEST
    planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
    wide = _round(jnp.einsum("chw,vw->chv", planes, columns, precision=exact))
    tall = _round(jnp.einsum("uh,chv->cuv", rows, wide, precision=exact))
    return jnp.moveaxis(tall, 0, -1).astype(jnp.uint8)


def _round(sums: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
    return jnp.clip(jnp.floor(sums / _ONE + 0.5), 0, 255)


def resize_weights(size: int, start: Int[Array, ""], length: Int[Array, ""]) -> Float[Array, "size size"]:
    """Weights that resize `length` pixels from `start` on to `size`: a triangle, widened where it shrinks (antialias).

    As Pillow's BILINEAR with `box`, pixels outside the part but inside the image count where the triangle reaches
    them. All in whole numbers, so there is nothing to round differently elsewhere.
    """
    out, tap = jnp.arange(size)[:, None], jnp.arange(size)[None, :]
    # Positions in units of 1 / (2 * size) of an input pixel.
    distance = jnp.abs((2 * tap + 1) * size - (2 * out + 1) * length - 2 * size * start)
    weight = jnp.maximum(2 * jnp.maximum(length, size) - distance, 0)
    total = weight.sum(-1, keepdims=True)
    return ((weight * _ONE + total // 2) // total).astype(jnp.float32)


def blur_weights(size: int, sigma: Float[Array, ""]) -> Float[Array, "size size"]:
    """Weights of a Gaussian blur of `sigma` pixels; near the edge only the pixels inside the image count."""
    place = jnp.arange(size, dtype=jnp.float32)
    weight = jnp.exp(-0.5 * ((place[:, None] - place[None, :]) / sigma) ** 2)
    return jnp.round(weight / weight.sum(-1, keepdims=True) * _ONE)
