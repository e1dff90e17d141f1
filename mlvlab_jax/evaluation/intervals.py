"""Confidence intervals: Wilson's for a share of examples, the bootstrap's for everything else."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import ndtri

#: Of every interval this package reports.
CONFIDENCE = 0.95
#: Standard normal quantile of a two-sided interval.
Z = float(ndtri(0.5 + CONFIDENCE / 2))
#: Resamples of a bootstrap; the limits of 1,000 move by about 3 % of the interval's width from seed to seed.
NUM_RESAMPLES = 1000
_SEED = 0
_TAILS = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
#: Numbers in one piece of work of the bootstrap: 32 MB.
_MAX_ELEMENTS = 4_000_000

#: From how often each example counts, float64 (r, n), rows that add up to n, to values, float64 (r).
Measure = Callable[[np.ndarray], np.ndarray]


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


def resample(
    measures: Mapping[str, Measure], num_examples: int, *, num_resamples: int = NUM_RESAMPLES
) -> dict[str, np.ndarray]:
    """Each measure of resamples of the examples with replacement, the same for all: float64 (num_resamples).

    References:
        B. Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    rng = np.random.default_rng(_SEED)
    rows = max(1, _MAX_ELEMENTS // num_examples)
    values: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for start in range(0, num_resamples, rows):
        drawn = rng.integers(0, num_examples, (min(rows, num_resamples - start), num_examples))
        weights = np.stack([np.bincount(row, minlength=num_examples) for row in drawn]).astype(np.float64)
        for name, measure in measures.items():
            values[name].append(measure(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def estimate_percentile(value: float, resamples: np.ndarray) -> Estimate:
    """`value` with the middle 95 % of its resamples, float (r).

    It is too narrow where the value hangs on a handful of examples, such as the few mistakes of a very good model.
    """
    low, high = np.quantile(resamples, _TAILS)
    return Estimate(value, float(min(low, value)), float(max(high, value)), "bootstrap")


def estimate_error(value: float, resamples: np.ndarray, calibrated: np.ndarray) -> Estimate:
    """A calibration error, which is >= 0 and the larger the fewer examples, with an interval that allows for that.

    The percentiles are mirrored at the value (the basic bootstrap), and the interval goes down to 0 where a perfectly
    calibrated model would often show as large an error; it always holds the value.

    Args:
        value: The measured error.
        resamples: Of it, float (r).
        calibrated: Errors of a perfectly calibrated model with the same confidences, float (r).

    References:
        A. C. Davison, D. V. Hinkley, "Bootstrap methods and their application", 1997 (the basic interval).
        J. Bröcker, L. A. Smith, "Increasing the reliability of reliability diagrams", 2007 (consistency resampling).
    """
    low, high = 2 * value - np.quantile(resamples, _TAILS)[::-1]
    if value <= np.quantile(calibrated, CONFIDENCE):
        low = 0.0
    return Estimate(value, float(np.clip(low, 0.0, value)), float(max(high, value)), "bootstrap")
