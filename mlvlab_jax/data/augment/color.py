"""Brightness, contrast, saturation and hue, as Pillow and torchvision define them.

Strengths are multiples of 2^-10, so that float32 arithmetic on bytes is exact and rounds the same on every device.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from mlvlab_jax.config.augment import ColorJitterConfig

STEP = 2.0**-10


def to_gray(image: UInt8[Array, "h w c"]) -> Int[Array, "h w 1"]:
    """Luma of ITU-R 601-2, rounded as in Pillow's mode L; of one channel, that channel."""
    if image.shape[-1] == 1:
        return image.astype(jnp.int32)
    weighted = image.astype(jnp.int32) * jnp.array([[[19595, 38470, 7471]]])
    return (weighted.sum(-1, keepdims=True) + 2**15) >> 16


def mean_gray(image: UInt8[Array, "h w c"]) -> Int[Array, ""]:
    """Mean of `to_gray`, rounded half up."""
    count = image.shape[0] * image.shape[1]
    return (to_gray(image).sum() + count // 2) // count


def blend(base: Array, image: UInt8[Array, "h w c"], factor: Float[Array, ""] | float) -> UInt8[Array, "h w c"]:
    """Base + factor * (image - base), cut to bytes towards 0 as Pillow's Image.blend.

    Args:
        base: What is left at factor 0; whole numbers that broadcast to the image.
        image: What is left at factor 1.
        factor: Multiple of `STEP`; above 1 it exaggerates.
    """
    base = base.astype(jnp.float32)
    return jnp.clip(base + factor * (image.astype(jnp.float32) - base), 0, 255).astype(jnp.uint8)


def adjust_brightness(image: UInt8[Array, "h w c"], factor: Float[Array, ""]) -> UInt8[Array, "h w c"]:
    """Pixels times `factor`."""
    return blend(jnp.zeros((1, 1, 1)), image, factor)


def adjust_contrast(image: UInt8[Array, "h w c"], factor: Float[Array, ""]) -> UInt8[Array, "h w c"]:
    """Distance from the image's mean grey times `factor`."""
    return blend(mean_gray(image).reshape(1, 1, 1), image, factor)


def adjust_saturation(image: UInt8[Array, "h w c"], factor: Float[Array, ""]) -> UInt8[Array, "h w c"]:
    """Distance from each pixel's grey times `factor`; one channel is left as it is."""
    return blend(to_gray(image), image, factor)


def adjust_hue(image: UInt8[Array, "h w 3"], turns: Float[Array, ""]) -> UInt8[Array, "h w 3"]:
    """Colours turned around the circle of hues; value and saturation (HSV) stay.

    References:
        A. R. Smith, "Color Gamut Transform Pairs", 1978.
    """
    red, green, blue = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    below = jnp.maximum(chroma, 1)  # all differences are 0 where chroma is
    from_green = jnp.where(value == green, (blue - red) / below + 2, (red - green) / below + 4)
    sixth = jnp.where(value == red, (green - blue) / below, from_green) + 6 * turns
    turned = []
    for offset in (5, 3, 1):
        place = (sixth + offset) % 6
        turned.append(value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1))
    return jnp.round(jnp.stack(turned, -1)).astype(jnp.uint8)


def color_jitter(image: UInt8[Array, "h w c"], key: Key[Array, ""], rule: ColorJitterConfig) -> UInt8[Array, "h w c"]:
    """Random brightness, contrast, saturation and hue, always in this order.

    torchvision draws the order too; a fixed one costs a quarter as much, and the strengths have the same distribution.

    References:
        A. G. Howard, "Some Improvements on Deep Convolutional Neural Network Based Image Classification", 2013.
    """
    keys = jax.random.split(key, 4)
    adjusts = (
        (adjust_brightness, rule.brightness),
        (adjust_contrast, rule.contrast),
        (adjust_saturation, rule.saturation),
    )
    for one_key, (adjust, strength) in zip(keys[:3], adjusts, strict=True):
        if strength:
            image = adjust(image, _draw(one_key, max(0.0, 1 - strength), 1 + strength))
    return adjust_hue(image, _draw(keys[3], -rule.hue, rule.hue)) if rule.hue else image


def _draw(key: Key[Array, ""], low: float, high: float) -> Float[Array, ""]:
    """Uniform between `low` and `high`, rounded to a multiple of `STEP`."""
    return jnp.round(jax.random.uniform(key, (), minval=low, maxval=high) / STEP) * STEP
