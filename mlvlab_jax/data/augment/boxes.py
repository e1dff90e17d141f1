"""Random rectangles in an image, as (top, left, height, width) in pixels."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

_NUM_DRAWS = 10


def random_box(
    key: Key[Array, ""],
    *,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Int[Array, "4"], Bool[Array, ""]]:
    """A rectangle of random area, aspect and place: the first of ten draws that lies inside the image.

    Args:
        key: Of this example and purpose.
        height: Of the image.
        width: Of the image.
        area: Range of the rectangle's area, uniform, as a share of the image's.
        ratio: Range of width / height, uniform in the logarithm.

    Returns:
        The rectangle, and whether any draw fitted; the rectangle means nothing where none did.

    References:
        C. Szegedy et al., "Going Deeper with Convolutions", 2014 (crops of random area and aspect).
    """
    shape_key, place_key = jax.random.split(key)
    area_draw, ratio_draw = jax.random.uniform(shape_key, (2, _NUM_DRAWS))
    wanted = (area[0] + area_draw * (area[1] - area[0])) * (height * width)
    aspect = jnp.exp(math.log(ratio[0]) + ratio_draw * math.log(ratio[1] / ratio[0]))
    heights = jnp.round(jnp.sqrt(wanted / aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(wanted * aspect)).astype(jnp.int32)
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    chosen = jnp.argmax(fits)
    size = jnp.stack([heights[chosen], widths[chosen]])
    room = jnp.maximum(jnp.array([height, width]) - size, 0) + 1
    corner = jax.random.bits(place_key, (2,)) % room.astype(jnp.uint32)
    return jnp.concatenate([corner.astype(jnp.int32), size]), fits.any()


def box_mask(box: Int[Array, "4"], *, height: int, width: int) -> Bool[Array, "h w"]:
    """True inside the rectangle."""
    top, left, box_height, box_width = box
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    return (row >= top) & (row < top + box_height) & (column >= left) & (column < left + box_width)
