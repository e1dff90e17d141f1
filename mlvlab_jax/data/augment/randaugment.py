"""RandAugment and 3-Augment.

In a batch every example has another operation, and a device that computes one computes all. So the 14 operations of
RandAugment are folded into three: one look-up of pixels (geometry), one of values (tables of 256), one blend.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from mlvlab_jax.config.augment import RandAugmentConfig
from mlvlab_jax.data.augment.color import STEP, blend, mean_gray, to_gray
from mlvlab_jax.data.augment.resample import blur_weights, resample

#: The paper's operations. Geometry fills with black and takes the nearest pixel, as torchvision does by default.
OPS = (
    *("identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_SIGNS = (1, -1)
_FIXED = 2**16
"""Coordinates are whole numbers in units of 2^-16 pixels, as Pillow's: the same pixel is nearest on every device."""


def randaugment(image: UInt8[Array, "h w c"], key: Key[Array, ""], rule: RandAugmentConfig) -> UInt8[Array, "h w c"]:
    """`num_ops` operations drawn with replacement from `OPS`, each forwards or backwards.

    Ranges at magnitude 10: rotate 30 degrees, shear 0.3, translate 150/331 of the side, brightness, contrast, color
    and sharpness 1 +- 0.9, solarize from 0, posterize to 4 bits. Magnitude 0 changes nothing, but that autocontrast
    and equalize have no magnitude. One channel: color is the identity.

    References:
        E. D. Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019.
    """
    for bits in jax.random.bits(key, (rule.num_ops,)):
        op = ((bits >> 1) % len(OPS)).astype(jnp.int32)
        # The barrier keeps XLA from computing an operation anew for each use of its result in the next.
        image = jax.lax.optimization_barrier(apply_op(image, op, (bits & 1).astype(jnp.int32), rule.magnitude))
    return image


def apply_op(
    image: UInt8[Array, "h w c"], op: Int[Array, ""], backwards: Int[Array, ""], magnitude: float
) -> UInt8[Array, "h w c"]:
    """One operation.

    Args:
        image: What to change.
        op: Index in `OPS`.
        backwards: 1 turns the direction round where there is one.
        magnitude: In [0, 10].
    """
    height, width, _ = image.shape
    affine = jnp.asarray(_affines(height, width, magnitude))[op, backwards]
    table = jnp.asarray(_tables(magnitude))[op, backwards]
    factor = jnp.asarray(_factors(magnitude))[backwards]
    changed = _look_up(_warp(image, affine), _table(image, op, table, factor))
    is_color, is_sharpness = op == OPS.index("color"), op == OPS.index("sharpness")
    base = jnp.where(is_color, to_gray(image), _smooth(image))
    return blend(base, changed, jnp.where(is_color | is_sharpness, factor, 1.0))


def _affines(height: int, width: int, magnitude: float) -> Int[np.ndarray, "14 2 6"]:
    """x_in = (a x + b y + c) >> 16 and y_in = (d x + e y + f) >> 16, for each operation and direction."""
    tables = np.zeros((len(OPS), 2, 6), np.int32)
    for backwards, sign in enumerate(_SIGNS):
        angle, shear = sign * math.radians(3 * magnitude), sign * 0.03 * magnitude
        cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
        move_x, move_y = (sign * int(magnitude * 15 / 331 * side) for side in (width, height))
        special = {
            "rotate": (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y),
            "shear_x": (1, shear, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, shear, 1, 0),
            "translate_x": (1, 0, move_x, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, move_y),
        }
        for index, name in enumerate(OPS):
            a, b, c, d, e, f = special.get(name, (1, 0, 0, 0, 1, 0))
            at_centre = (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)
            tables[index, backwards] = np.floor(np.array(at_centre) * _FIXED + 0.5)
    return tables


def _tables(magnitude: float) -> UInt8[np.ndarray, "14 2 256"]:
    """New value of each byte, for the operations whose tables do not depend on the image."""
    value = np.arange(256)
    tables = np.broadcast_to(value, (len(OPS), 2, 256)).astype(np.uint8)
    tables[OPS.index("solarize")] = np.where(value < 256 * (1 - magnitude / 10), value, 255 - value)
    tables[OPS.index("posterize")] = value & ~(2 ** round(0.4 * magnitude) - 1)
    factors = _factors(magnitude).astype(np.float64)
    tables[OPS.index("brightness")] = np.clip(factors[:, None] * value, 0, 255)
    return tables


def _factors(magnitude: float) -> Float[np.ndarray, "2"]:
    """Factors of color, contrast, brightness and sharpness, forwards and backwards."""
    factors = 1 + 0.09 * magnitude * np.array(_SIGNS)
    return (np.round(factors / STEP) * STEP).astype(np.float32)


def _warp(image: UInt8[Array, "h w c"], affine: Int[Array, "6"]) -> UInt8[Array, "h w c"]:
    height, width, channels = image.shape
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    x = (affine[0] * column + affine[1] * row + affine[2]) >> 16
    y = (affine[3] * column + affine[4] * row + affine[5]) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = jnp.where(inside, y * width + x, 0)
    pixels = image.reshape(-1, channels).at[index].get(mode="promise_in_bounds")
    return jnp.where(inside[:, :, None], pixels, 0)


def _table(
    image: UInt8[Array, "h w c"], op: Int[Array, ""], table: UInt8[Array, "256"], factor: Float[Array, ""]
) -> UInt8[Array, "c 256"]:
    """The operation's table for each channel: `table`, or one made from the image."""
    value = jnp.arange(256, dtype=jnp.uint8).reshape(256, 1, 1)
    contrast = blend(mean_gray(image).reshape(1, 1, 1), value, factor).reshape(1, 256)
    count = _histogram(image)
    chosen = jnp.broadcast_to(table, count.shape)
    made = {"autocontrast": _autocontrast_table(count), "equalize": _equalize_table(count), "contrast": contrast}
    for name, from_image in made.items():
        chosen = jnp.where(op == OPS.index(name), from_image, chosen)
    # Without the barrier XLA computes the table anew for every pixel that is looked up in it.
    return jax.lax.optimization_barrier(chosen)


def _slots(image: UInt8[Array, "h w c"]) -> Int[Array, "h w c"]:
    """Index of each value in tables of 256, one after the other for each channel."""
    return image.astype(jnp.int32) + 256 * jnp.arange(image.shape[-1]).reshape(1, 1, -1)


def _histogram(image: UInt8[Array, "h w c"]) -> Int[Array, "c 256"]:
    channels = image.shape[-1]
    return jnp.zeros(256 * channels, jnp.int32).at[_slots(image).reshape(-1)].add(1).reshape(channels, 256)


def _autocontrast_table(count: Int[Array, "c 256"]) -> UInt8[Array, "c 256"]:
    """Stretches each channel's range to 0..255; a flat channel stays."""
    low = jnp.argmax(count > 0, axis=1, keepdims=True)
    high = 255 - jnp.argmax(count[:, ::-1] > 0, axis=1, keepdims=True)
    value = jnp.arange(256)[None, :]
    stretched = (value - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), value).astype(jnp.uint8)


def _equalize_table(count: Int[Array, "c 256"]) -> UInt8[Array, "c 256"]:
    """Makes each channel's values equally frequent, by the rule of Pillow's ImageOps.equalize."""
    high = 255 - jnp.argmax(count[:, ::-1] > 0, axis=1, keepdims=True)
    step = (count.sum(1, keepdims=True) - jnp.take_along_axis(count, high, axis=1)) // 255
    # A product with ones above the diagonal: exact in float32, and on CPU many times faster than a cumulative sum.
    above = jnp.asarray(np.triu(np.ones((256, 256), np.float32), 1))
    before = jnp.matmul(count.astype(jnp.float32), above, precision="highest").astype(jnp.int32)
    spread = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, spread, jnp.arange(256)[None, :]).astype(jnp.uint8)


def _look_up(image: UInt8[Array, "h w c"], table: UInt8[Array, "c 256"]) -> UInt8[Array, "h w c"]:
    return table.reshape(-1).at[_slots(image)].get(mode="promise_in_bounds")


def _smooth(image: UInt8[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Pillow's SMOOTH: a 3 x 3 mean with weight 5 in the middle; the outermost pixels stay."""
    whole = image.astype(jnp.float32)
    height, width, _ = image.shape
    padded = jnp.pad(whole, ((1, 1), (1, 1), (0, 0)))
    near = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    return jnp.where(inner, jnp.floor((near + 4 * whole) / 13 + 0.5), whole)


def three_augment(image: UInt8[Array, "h w c"], key: Key[Array, ""]) -> UInt8[Array, "h w c"]:
    """One of: grey; solarised from 128 on; blurred by a Gaussian of 0.1 to 2 pixels. One channel is grey already.

    References:
        H. Touvron et al., "DeiT III: Revenge of the ViT", 2022.
    """
    height, width, _ = image.shape
    choice_key, sigma_key = jax.random.split(key)
    choice = jax.random.bits(choice_key) % 3
    sigma = jax.random.uniform(sigma_key, (), minval=0.1, maxval=2.0)
    grey = jnp.broadcast_to(to_gray(image).astype(jnp.uint8), image.shape)
    blurred = resample(image, blur_weights(height, sigma), blur_weights(width, sigma))
    is_grey: Bool[Array, ""] = choice == 0
    return jnp.where(is_grey, grey, jnp.where(choice == 1, solarize(image), blurred))


def solarize(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Inverts the values from 128 on."""
    return jnp.where(image < 128, image, 255 - image)
