"""Noise of sensors and of transmission."""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, xlogy
from jaxtyping import Array, Float, Key

Image = Float[Array, "h w c"]
Scalar = Float[Array, ""]
#: The table of counts; 60 photons are more than this with a chance of 1e-13.
_MOST_PHOTONS = 128


def gaussian_noise(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """Normal noise of that standard deviation."""
    return image + strength * jax.random.normal(key, image.shape)


def shot_noise(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """As of a sensor that counts so many photons for white, at most 60; the image is of bytes.

    A Poisson draw for each value by inversion: of 256 means there are, a table of distributions is searched in seven
    steps, which is twenty times as fast as `jax.random.poisson`.
    """
    counts = jnp.arange(_MOST_PHOTONS, dtype=jnp.float32)
    mean = jnp.arange(256, dtype=jnp.float32)[:, None] / 255 * strength
    # xlogy makes a mean of 0 a certain count of 0.
    table = jnp.cumsum(jnp.exp(xlogy(counts[None], mean) - mean - gammaln(counts + 1)[None]), axis=1).reshape(-1)
    first = jnp.round(image * 255).astype(jnp.int32) * _MOST_PHOTONS
    draw = jax.random.uniform(key, image.shape)
    count, step = jnp.zeros(image.shape, jnp.int32), _MOST_PHOTONS // 2
    while step:  # unrolled: the count is that of the entries below the draw
        count = jnp.where(table[first + count + step - 1] < draw, count + step, count)
        step //= 2
    return count / strength


def impulse_noise(image: Image, key: Key[Array, ""], strength: Scalar) -> Image:
    """That share of the values is black or white."""
    draw = jax.random.uniform(key, image.shape)
    return jnp.where(draw < strength / 2, 0.0, jnp.where(draw < strength, 1.0, image))
