"""A confusion matrix as a picture."""

import numpy as np

_INK = np.array([8, 48, 107])
_NO_EXAMPLES = 224


def render_confusion(counts: np.ndarray) -> np.ndarray:
    """Examples by class (row) and prediction (column), as shares of their row: white for none, dark blue for all.

    Args:
        counts: (k k), not negative. A row without examples is grey.

    Returns:
        uint8 (1 h w 3): square cells of 8 pixels or more up to 256 classes, of one pixel beyond.
    """
    counts = np.asarray(counts, np.float64)
    total = counts.sum(1, keepdims=True)
    share = counts / np.maximum(total, 1)
    color = np.where(total[..., None] > 0, 255 - share[..., None] * (255 - _INK), _NO_EXAMPLES)
    side = max(8, 512 // len(counts)) if len(counts) <= 256 else 1
    pixels = np.round(color).astype(np.uint8).repeat(side, axis=0).repeat(side, axis=1)
    return pixels[None]
