"""Pixels to network input on the device: normalise, random crop, flip. Pure, and keyed per example.

An example's random choices depend on (key, epoch, example id) only, so they are the same on any mesh and batch size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from mlvlab_jax.config.schema import AugmentConfig, PipelineConfig


def normalize(image: UInt8[Array, "b h w c"], config: PipelineConfig) -> Float[Array, "b h w c"]:
    """(image / 255 - mean) / std, float32."""
    mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) * 255 for values in (config.mean, config.std))
    return (image.astype(jnp.float32) - mean) * (1 / std)


def augment(
    image: UInt8[Array, "b h w c"],
    example_id: Int[Array, " b"],
    epoch: Int[Array, " b"],
    key: Key[Array, ""],
    config: AugmentConfig,
) -> UInt8[Array, "b h w c"]:
    """Random crop after zero padding, then random mirroring, as far as `config` asks for them."""
    if not config.crop_padding and not config.horizontal_flip:
        return image
    keys = jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(key, e), i))(epoch, example_id)
    bits = jax.vmap(lambda k: jax.random.bits(k, (3,)))(keys)
    if config.crop_padding:
        image = _shift(image, _offsets(bits[:, :2], config.crop_padding), config.crop_padding)
    if config.horizontal_flip:
        image = jnp.where((bits[:, 2] & 1)[:, None, None, None] == 1, image[:, :, ::-1], image)
    return image


def _offsets(bits: Array, padding: int) -> Int[Array, "b 2"]:
    """Uniform in [0, 2 * padding]."""
    return (bits % jnp.uint32(2 * padding + 1)).astype(jnp.int32)


def _shift(image: UInt8[Array, "b h w c"], offset: Int[Array, "b 2"], padding: int) -> UInt8[Array, "b h w c"]:
    """Crops at `offset` out of the image with `padding` zeros around it."""
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def crop(one: Array, at: Array) -> Array:
        return jax.lax.dynamic_slice(one, (at[0], at[1], 0), image.shape[1:])

    return jax.vmap(crop)(padded, offset)
