"""Which of two pooled samples an example is from, drawn anew many times: what a statistic is where it does not matter.

References:
    R. A. Fisher, "The design of experiments", 1935.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_SEED = 0
#: Draws that must reach the observed value for their share to be the p-value; below, the share is too rough.
_MIN_REACHED = 10
_NUM_FIRST = 100
#: p-value after those below which no level of a test can be.
_CERTAIN = 1e-12


class Pooled(NamedTuple):
    """Two samples shuffled together.

    rows: float32 (n + m, p). in_window: bool (1 + r, n + m); its first row is the truth, the others are drawn anew.
    """

    rows: np.ndarray
    in_window: np.ndarray


def pool(ours: np.ndarray, theirs: np.ndarray, *, num_permutations: int, max_examples: int) -> Pooled:
    """The reference's rows (m p) and the window's (n p), at most `max_examples` of each, shuffled; always the same."""
    rng = np.random.default_rng(_SEED)
    ours, theirs = (
        rows if len(rows) <= max_examples else rows[rng.choice(len(rows), max_examples, replace=False)]
        for rows in (ours, theirs)
    )
    in_window = _draw_labels(len(theirs), len(ours), 1 + num_permutations)
    rows = np.empty((len(ours) + len(theirs), ours.shape[1]), np.float32)
    rows[in_window[0]], rows[~in_window[0]] = theirs, ours
    return Pooled(rows, in_window)


@functools.lru_cache(maxsize=2)  # a megabyte each, and as long to draw as to use
def _draw_labels(num_window: int, num_reference: int, num_rows: int) -> np.ndarray:
    labels = np.arange(num_window + num_reference) < num_window
    return np.random.default_rng(_SEED).permuted(np.broadcast_to(labels, (num_rows, len(labels))), axis=1)


def judge(measure: Callable[[np.ndarray], np.ndarray], in_window: np.ndarray) -> tuple[float, float]:
    """p-value and value of a statistic that is large where there is drift.

    A hundred draws come first. They are all where they leave nothing to learn: ten of them reach the observed value,
    which is then nothing unusual, or it is so far beyond them that no doubt is left.

    Args:
        measure: From labels, bool (r, n), to the statistic of each row, (r).
        in_window: Labels, the true ones first, as of `pool`.

    References:
        J. Besag, P. Clifford, "Sequential Monte Carlo p-values", 1991.
    """
    drawn = measure(in_window[: 1 + _NUM_FIRST])
    p_value = compute_p_value(float(drawn[0]), drawn[1:])
    if _CERTAIN < p_value < (1 + _MIN_REACHED) / (1 + _NUM_FIRST):
        drawn = np.concatenate([drawn, measure(in_window[1 + _NUM_FIRST :])])
        p_value = compute_p_value(float(drawn[0]), drawn[1:])
    return p_value, float(drawn[0])


def compute_p_value(observed: float, drawn: np.ndarray) -> float:
    """Chance of a statistic as large as the observed one, judged by (r) drawn without drift.

    The share of draws that reach it, itself counted. Beyond the largest few draws, where that share cannot tell one in
    a thousand from one in a million, the tail of the Pearson type III distribution with the draws' mean, variance and
    skewness. 1 where all are equal.

    References:
        B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", 2010.
        C. R. Minas, G. Montana, "Distance-based analysis of variance: approximate inference", 2014 (the tail).
    """
    from scipy.stats import pearson3, skew

    num_reached = int((drawn >= observed).sum())
    if num_reached >= _MIN_REACHED:
        return (1 + num_reached) / (1 + len(drawn))
    drawn = drawn.astype(np.float64)
    tail = pearson3(skew(drawn), loc=drawn.mean(), scale=drawn.std(ddof=1)).sf(observed)
    return float(min(tail, (1 + _MIN_REACHED) / (1 + len(drawn))))
