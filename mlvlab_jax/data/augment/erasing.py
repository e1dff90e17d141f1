"""Random erasing of a rectangle, on normalised images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mlvlab_jax.config.augment import ErasingConfig
from mlvlab_jax.data.augment.boxes import box_mask, random_box


def erase(image: Float[Array, "h w c"], key: Key[Array, ""], rule: ErasingConfig) -> Float[Array, "h w c"]:
    """Overwrites, for a share of the images, a rectangle of random area, aspect and place with noise or the mean.

    An image that none of ten rectangles fits into is left alone.

    References:
        Z. Zhong et al., "Random Erasing Data Augmentation", 2017.
    """
    height, width, _ = image.shape
    chance_key, box_key, noise_key = jax.random.split(key, 3)
    box, fits = random_box(box_key, height=height, width=width, area=rule.area, ratio=rule.ratio)
    wanted = jax.random.uniform(chance_key) < rule.probability
    erased = box_mask(box, height=height, width=width) & fits & wanted
    fill = jax.random.normal(noise_key, image.shape) if rule.fill == "noise" else jnp.zeros_like(image)
    return jnp.where(erased[:, :, None], fill, image)
