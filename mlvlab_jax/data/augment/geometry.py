"""Where pixels come from: padded crop, mirroring, random resized crop."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8, UInt32

from mlvlab_jax.config.augment import RandomResizedCropConfig
from mlvlab_jax.data.augment.boxes import random_box
from mlvlab_jax.data.augment.resample import resample, resize_weights


def padded_crop(image: UInt8[Array, "h w c"], bits: UInt32[Array, "2"], padding: int) -> UInt8[Array, "h w c"]:
    """Crops back to the image's size out of the image with `padding` zeros around it; the place is uniform.

    References:
        C.-Y. Lee et al., "Deeply-Supervised Nets", 2014 (4 pixels on CIFAR).
    """
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    offset = (bits % jnp.uint32(2 * padding + 1)).astype(jnp.int32)
    return jax.lax.dynamic_slice(padded, (offset[0], offset[1], 0), image.shape)


def flip(image: UInt8[Array, "h w c"], bits: UInt32[Array, ""]) -> UInt8[Array, "h w c"]:
    """Mirrors the image, left to right, where the lowest bit is 1."""
    return jnp.where((bits & 1) == 1, image[:, ::-1], image)


def random_resized_crop(
    image: UInt8[Array, "h w c"], key: Key[Array, ""], rule: RandomResizedCropConfig
) -> UInt8[Array, "h w c"]:
    """A part of random area, aspect and place, resized to the image's own size (bilinear, antialiased).

    Where none of ten draws fits into the image, the part is the largest central one whose aspect is allowed.

    References:
        C. Szegedy et al., "Going Deeper with Convolutions", 2014.
    """
    height, width, _ = image.shape
    box, fits = random_box(key, height=height, width=width, area=rule.scale, ratio=rule.ratio)
    box = jnp.where(fits, box, jnp.array(_central_box(height, width, rule.ratio)))
    return resample(image, resize_weights(height, box[0], box[2]), resize_weights(width, box[1], box[3]))


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    box_height = min(height, max(1, round(width / ratio[0])))
    box_width = min(width, max(1, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
