"""Histograms in the monitoring folder: counts of a window on the edges of the reference."""

import numpy as np

_NUM_BINS = 30
#: The reference takes up two thirds of the bins, from its 1st to its 99th percentile; the others are for what drifts.
_RANGE, _MARGIN = (0.01, 0.99), 0.25
#: Width of a range, relative to its values, below which they are one value.
_MIN_WIDTH = 1e-6


def make_edges(values: np.ndarray, *, highest: float = np.inf) -> np.ndarray:
    """Limits of equally wide bins around values (n).

    Args:
        values: Of the reference; none is below 0.
        highest: What no value can be above.

    Returns:
        Ascending, float64 (m + 1), from 0 at least to `highest` at most.
    """
    low, high = np.quantile(values.astype(np.float64), _RANGE)
    if high - low < _MIN_WIDTH * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5
    margin = _MARGIN * (high - low)
    return np.linspace(max(0.0, low - margin), min(highest, high + margin), _NUM_BINS + 1)


def count_values(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """Counts (m) of the finite ones of values (n); those beyond the edges are in the outer bins."""
    finite = values[np.isfinite(values)].astype(np.float64)
    counts: list[int] = np.histogram(np.clip(finite, edges[0], edges[-1]), edges)[0].tolist()
    return counts
