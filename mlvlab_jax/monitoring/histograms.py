"""Histograms in the monitoring folder: counts of a window on the edges of the reference."""

import numpy as np

_NUM_BINS = 20
_RANGE = (0.01, 0.99)
#: Width of a range, relative to its values, below which they are one value.
_MIN_WIDTH = 1e-6


def make_edges(values: np.ndarray) -> np.ndarray:
    """Ascending limits, float64 (m + 1), of equally wide bins from the 1st to the 99th percentile of values (n)."""
    low, high = np.quantile(values.astype(np.float64), _RANGE)
    if high - low < _MIN_WIDTH * max(1.0, abs(low)):
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, _NUM_BINS + 1)


def count_values(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """Counts (m) of the finite ones of values (n); those beyond the edges are in the outer bins."""
    finite = values[np.isfinite(values)].astype(np.float64)
    counts: list[int] = np.histogram(np.clip(finite, edges[0], edges[-1]), edges)[0].tolist()
    return counts
