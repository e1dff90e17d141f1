"""Snow, frost and fog."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mlvlab_jax.data.corruptions.blur import move_along, scale_of, zoom
from mlvlab_jax.data.corruptions.noise import Image, Scalar


def snow(image: Image, key: Key[Array, ""], strength: Float[Array, "7"]) -> Image:
    """Flakes: noise (mean, deviation), enlarged, cut below a threshold, moved (radius, sigma), over a paler image."""
    mean, deviation, enlarged, threshold, radius, sigma, mix = strength
    field, angle = jax.random.split(key)
    flakes = mean + deviation * jax.random.normal(field, (*image.shape[:2], 1))
    flakes = zoom(flakes, 1 + (enlarged - 1) * jnp.float32(scale_of(image)) ** 0.5)
    flakes = jnp.clip(jnp.where(flakes < threshold, 0, flakes), 0, 1)
    steep = -jax.random.uniform(angle, (), minval=jnp.pi / 4, maxval=3 * jnp.pi / 4)
    scale = scale_of(image)
    flakes = move_along(flakes, steep, radius * scale, sigma * scale)
    grey = image.mean(-1, keepdims=True)
    paler = mix * image + (1 - mix) * jnp.maximum(image, grey * 1.5 + 0.5)
    return paler + flakes + flakes[::-1, ::-1]


def frost(image: Image, key: Key[Array, ""], strength: Float[Array, "2"]) -> Image:
    """Crystals drawn by the ridges of fractal noise: `strength[0]` of the image and `strength[1]` of them."""
    ridges = 1 - jnp.abs(2 * fractal(key, image.shape[0], image.shape[1], jnp.float32(1.6)) - 1)
    crystals = jnp.clip(ridges**3 * 1.2, 0, 1)[..., None]
    tint = jnp.array([0.8, 0.9, 1.0]) if image.shape[-1] == 3 else jnp.ones(1)
    return strength[0] * image + strength[1] * crystals * tint[None, None]


def fog(image: Image, key: Key[Array, ""], strength: Float[Array, "2"]) -> Image:
    """Fractal noise, rougher the smaller `strength[1]`, added `strength[0]` times and brought back to range."""
    cloud = fractal(key, image.shape[0], image.shape[1], strength[1])[..., None]
    top = image.max()
    return (image + strength[0] * cloud) * top / (top + strength[0])


def fractal(key: Key[Array, ""], height: int, width: int, decay: Scalar) -> Float[Array, "h w"]:
    """Sum of random grids, each twice as fine as the one before and `decay` times as weak; 0 to 1."""
    total = jnp.zeros((height, width))
    for octave in range(1, math.ceil(math.log2(max(height, width))) + 1):
        grid = jax.random.uniform(jax.random.fold_in(key, octave), (2**octave + 1, 2**octave + 1))
        total += jax.image.resize(grid, (height, width), "linear") * decay**-octave
    low, high = total.min(), total.max()
    return (total - low) / jnp.maximum(high - low, 1e-6)
