"""Which of two pooled samples an example is from, drawn anew many times: what a statistic is where it does not matter.

References:
    R. A. Fisher, "The design of experiments", 1935.
"""

from typing import NamedTuple

import numpy as np

_SEED = 0
#: Draws that must reach the observed value for their share to be the p-value; below, the share is too rough.
_MIN_REACHED = 10


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
    labels = np.arange(len(ours) + len(theirs)) < len(theirs)
    in_window = rng.permuted(np.broadcast_to(labels, (1 + num_permutations, len(labels))), axis=1)
    rows = np.empty((len(labels), ours.shape[1]), np.float32)
    rows[in_window[0]], rows[~in_window[0]] = theirs, ours
    return Pooled(rows, in_window)


def compute_p_value(statistic: np.ndarray) -> float:
    """Chance of a statistic as large as the first of (1 + r), judged by the others, which were drawn without drift.

    The share of draws that reach it, itself counted. Beyond the largest few draws, where that share cannot tell one in
    a thousand from one in a million, the tail of the Pearson type III distribution with the draws' mean, variance and
    skewness. 1 where all are equal.

    References:
        B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", 2010.
        C. R. Minas, G. Montana, "Distance-based analysis of variance: approximate inference", 2014 (the tail).
    """
    from scipy.stats import pearson3, skew

    observed, drawn = float(statistic[0]), statistic[1:].astype(np.float64)
    num_reached = int((drawn >= observed).sum())
    if num_reached >= _MIN_REACHED:
        return (1 + num_reached) / (1 + len(drawn))
    tail = pearson3(skew(drawn), loc=drawn.mean(), scale=drawn.std(ddof=1)).sf(observed)
    return float(min(tail, (1 + _MIN_REACHED) / (1 + len(drawn))))
