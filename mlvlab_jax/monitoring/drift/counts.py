"""Two rows of counts that are compared cell by cell."""

import numpy as np

#: Expected count below which a cell's distribution is not near enough to a normal one.
MIN_EXPECTED = 5.0


def pool_rare(counts: np.ndarray) -> np.ndarray:
    """Counts, int (2, k), with rare cells added up, so that at least 5 are expected in each: (2, j), 1 <= j <= k.

    Cells of like frequency go together, so that of a thousand classes about a hundred groups are left and not one.
    Their frequencies are those of both rows together, which say nothing of how the rows differ.

    References:
        W. G. Cochran, "Some methods for strengthening the common chi-square tests", 1954 (the expectation of 5).
    """
    total = counts.sum(0)
    order = np.argsort(-total, kind="stable")
    expected = total[order] * counts.sum(1).min() / max(1, total.sum())
    group, num_full, filled = np.zeros(len(order), np.int64), 0, 0.0
    for at, number in enumerate(expected):
        group[at] = num_full
        filled += number
        if filled >= MIN_EXPECTED:
            num_full, filled = num_full + 1, 0.0
    group = np.minimum(group, max(0, num_full - 1))  # what is left over joins the last full one
    starts = np.searchsorted(group, np.arange(group[-1] + 1))
    pooled: np.ndarray = np.add.reduceat(counts[:, order], starts, axis=1)
    return pooled
