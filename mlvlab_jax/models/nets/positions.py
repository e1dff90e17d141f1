"""Where a token is: fixed numbers added to it, or by which its queries and keys are turned."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed sine and cosine position embedding, float32 (1, rows * columns, width); width a multiple of 4.

    References:
        X. Chen, S. Xie, K. He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2021.
    """
    frequency = 1 / 10_000 ** np.linspace(0, 1, width // 4)
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angle_y, angle_x = (np.outer(grid.reshape(-1), frequency) for grid in (y, x))
    parts = [np.sin(angle_x), np.cos(angle_x), np.sin(angle_y), np.cos(angle_y)]
    return np.concatenate(parts, axis=1, dtype=np.float32)[None]


def axial_angles(rows: int, columns: int, head_dim: int, *, unturned: int) -> np.ndarray:
    """Angles by which pairs of numbers of a head are turned, float32 (unturned + rows * columns, head_dim // 2).

    The first half of the pairs is turned by the column, the other by the row, at frequencies 1 / 100**(i / pairs).

    Args:
        rows: Of patches.
        columns: Of patches.
        head_dim: Width of a head, a multiple of 4.
        unturned: Tokens before the patches, whose angles are 0.

    References:
        B. Heo, S. Park, D. Han, S. Yun, "Rotary Position Embedding for Vision Transformer", 2024 (RoPE-Axial).
    """
    pairs = head_dim // 4
    frequency = 1 / 100 ** (np.arange(pairs) / pairs)
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = np.concatenate([np.outer(grid.reshape(-1), frequency) for grid in (x, y)], axis=1, dtype=np.float32)
    return np.concatenate([np.zeros((unturned, 2 * pairs), np.float32), angles])


def turn(x: Float[Array, "b n heads d"], angles: Float[Array, "n pairs"]) -> Float[Array, "b n heads d"]:
    """Every two neighbouring numbers of a head as a point in the plane, turned by the angle of its token and pair."""
    cos, sin = (f(angles)[None, :, None] for f in (jnp.cos, jnp.sin))
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
