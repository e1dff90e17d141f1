"""Noise of sensors and of transmission."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Image = Float[Array, "h w c"]
Scalar = Float[Array, ""]


def gaussian_noise(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """Normal noise of that standard deviation."""
    return image + strength * jax.random.normal(key, image.shape)


def shot_noise(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """As of a sensor that counts so many photons for white."""
    return jax.random.poisson(key, image * strength, image.shape) / strength


def impulse_noise(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """That share of the values is black or white."""
    draw = jax.random.uniform(key, image.shape)
    return jnp.where(draw < strength / 2, 0.0, jnp.where(draw < strength, 1.0, image))
