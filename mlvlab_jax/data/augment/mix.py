"""Mixup and cutmix: two examples of the batch made one, and the weight of each one's label."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from mlvlab_jax.config.augment import AugmentConfig
from mlvlab_jax.data.augment.boxes import box_mask

_NUM_CELLS = 4096


class Mixed(NamedTuple):
    """Images and the two labels of each. `label` is the one with more weight: `label_weight` is in [0.5, 1].

    Labels are class numbers (b), or (b k), 1 for each class of examples that may have several.
    """

    image: Float[Array, "b h w c"]
    label: Integer[Array, "b *k"]
    other_label: Integer[Array, "b *k"]
    label_weight: Float[Array, " b"]


def mix(
    image: Float[Array, "b h w c"], label: Integer[Array, "b *k"], key: Key[Array, " b"], config: AugmentConfig
) -> Mixed:
    """Mixes each example with the one before it in the global batch, the first with the last.

    The batch is a function of seed and step, so pairs do not depend on mesh or number of processes (but on the batch
    size). Weight, kind and place are drawn from the example's own key.

    References:
        H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017.
        S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019.
    """
    height, width = image.shape[1:3]
    own, weight = jax.vmap(lambda one: _draw(one, height, width, config))(key)
    own = own[..., None]
    mixed = own * image + (1 - own) * jnp.roll(image, 1, axis=0)
    partner = jnp.roll(label, 1, axis=0)
    is_less = weight < 0.5
    swap = is_less.reshape(-1, *[1] * (label.ndim - 1))
    return Mixed(
        mixed,
        label=jnp.where(swap, partner, label),
        other_label=jnp.where(swap, label, partner),
        label_weight=jnp.where(is_less, 1 - weight, weight),
    )


def _draw(
    key: Key[Array, ""], height: int, width: int, config: AugmentConfig
) -> tuple[Float[Array, "h w"], Float[Array, ""]]:
    """An example's own weight in each pixel, and in the label."""
    chance_key, switch_key, weight_key, place_key = jax.random.split(key, 4)
    alphas = [section.alpha for section in (config.mixup, config.cutmix) if section is not None]
    cut_share = config.mix_switch_probability if len(alphas) == 2 else float(config.mixup is None)
    cuts = jax.random.uniform(switch_key) < cut_share
    tables = jnp.asarray(np.stack([_beta_quantiles(alphas[0]), _beta_quantiles(alphas[-1])]))
    blended = _interpolate(tables[cuts.astype(jnp.int32)], jax.random.uniform(weight_key))
    kept, kept_share = _cut(place_key, height, width, blended)
    mixes = jax.random.uniform(chance_key) < config.mix_probability
    own = jnp.where(mixes, jnp.where(cuts, kept, blended), 1.0)
    return own, jnp.where(mixes, jnp.where(cuts, kept_share, blended), 1.0)


@functools.cache
def _beta_quantiles(alpha: float) -> Float[np.ndarray, " n"]:
    """Quantiles of Beta(alpha, alpha), evenly spaced from 0 to 1.

    jax.random.beta draws until a draw is accepted: a loop that waits for all devices in each round.
    """
    from scipy.special import betaincinv  # half a second, for runs that mix only

    return betaincinv(alpha, alpha, np.linspace(0, 1, _NUM_CELLS + 1)).astype(np.float32)


def _interpolate(table: Float[Array, " n"], place: Float[Array, ""]) -> Float[Array, ""]:
    """Value of the table at `place` in [0, 1)."""
    place = place * _NUM_CELLS
    cell = jnp.floor(place).astype(jnp.int32)
    return table[cell] + (place - cell) * (table[cell + 1] - table[cell])


def _cut(
    key: Key[Array, ""], height: int, width: int, wanted: Float[Array, ""]
) -> tuple[Float[Array, "h w"], Float[Array, ""]]:
    """0 in a rectangle of the image's aspect, area 1 - `wanted`, cut off at the edges; and the share of ones left."""
    size = jnp.array([height, width])
    half = jnp.floor(size * jnp.sqrt(1 - wanted) / 2).astype(jnp.int32)
    centre = (jax.random.bits(key, (2,)) % size.astype(jnp.uint32)).astype(jnp.int32)
    top_left, bottom_right = jnp.maximum(centre - half, 0), jnp.minimum(centre + half, size)
    box = jnp.concatenate([top_left, bottom_right - top_left])
    return 1.0 - box_mask(box, height=height, width=width), 1 - box[2] * box[3] / (height * width)
