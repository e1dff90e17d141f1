"""Confidence intervals: Wilson's for a share of examples, the bootstrap's for everything else."""

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import ndtri

#: Of every interval this package reports.
CONFIDENCE = 0.95
#: Standard normal quantile of a two-sided interval.
Z = float(ndtri(0.5 + CONFIDENCE / 2))


class Estimate(NamedTuple):
    """A measured value, and the 95 % confidence interval of what it estimates."""

    value: float
    low: float
    high: float
    method: Literal["wilson", "bootstrap"]


def compute_wilson(num_right: np.ndarray | int, num_all: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a binomial share.

    Args:
        num_right: Successes, of any shape.
        num_all: Trials, of the same shape; of 0 trials nothing is known: 0 to 1.

    Returns:
        Lower and upper limit, float64.

    References:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    right, trials = np.asarray(num_right, np.float64), np.asarray(num_all, np.float64)
    share = right / np.maximum(trials, 1)
    centre = trials * share + Z**2 / 2
    half = Z * np.sqrt(trials * share * (1 - share) + Z**2 / 4)
    low, high = (centre - half) / (trials + Z**2), (centre + half) / (trials + Z**2)
    return np.where(right == 0, 0.0, low), np.where(right == trials, 1.0, high)


def estimate_share(right: np.ndarray) -> Estimate:
    """Share of true values in `right`, bool (n), with Wilson's interval."""
    low, high = compute_wilson(int(right.sum()), len(right))
    return Estimate(float(right.mean()), float(low), float(high), "wilson")
