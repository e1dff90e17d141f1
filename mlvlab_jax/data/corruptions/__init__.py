"""Fifteen corruptions of test images in five severities, of the kinds and strengths of ImageNet-C, on the device.

Lengths (radii, displacements) are those of 224 pixels, scaled with the shortest side. Where the original needs
photographs (frost) or draws pixel after pixel (glass), what is here looks alike and is not the same; figures of
published tables are of other images and not to be compared with.

References:
    D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", 2019.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from mlvlab_jax.data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from mlvlab_jax.data.corruptions.digital import brightness, contrast, elastic_transform, jpeg_compression, pixelate
from mlvlab_jax.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from mlvlab_jax.data.corruptions.weather import fog, frost, snow

#: Of each: its function of (image float (h w c) in [0, 1], key, strength), and the strength of each severity.
CORRUPTIONS = {
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": (glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": (motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (zoom_blur, (1.11, 1.16, 1.21, 1.26, 1.31)),
    "snow": (
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": (fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        elastic_transform,
        ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
    ),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (25, 18, 15, 10, 7)),
}
NUM_SEVERITIES = 5


@functools.partial(jax.jit, static_argnames="name")
def corrupt(
    image: UInt8[Array, "b h w c"], example_id: Int[Array, " b"], severity: Int[Array, ""], *, name: str
) -> UInt8[Array, "b h w c"]:
    """Images corrupted, a function of image, example, name and severity alone, whatever the batch.

    Args:
        image: What is corrupted; 1 or 3 channels.
        example_id: Of each; decides what is random of it.
        severity: 1 to 5.
        name: One of `CORRUPTIONS`.
    """
    function, strengths = CORRUPTIONS[name]
    strength = jnp.asarray(strengths, jnp.float32)[severity - 1]
    key = jax.random.fold_in(jax.random.key(zlib.crc32(name.encode())), severity)

    def one(pixels: UInt8[Array, "h w c"], own: Int[Array, ""]) -> UInt8[Array, "h w c"]:
        changed = function(pixels / jnp.float32(255), jax.random.fold_in(key, own), strength)
        return jnp.round(jnp.clip(changed, 0, 1) * 255).astype(jnp.uint8)

    return jax.vmap(one)(image, example_id)
