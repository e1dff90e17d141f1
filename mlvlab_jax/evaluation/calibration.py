"""How far confidence can be believed: reliability bins, calibration error, and one temperature to mend it."""

import dataclasses
from typing import Any

import numpy as np

from mlvlab_jax.evaluation.predictions import Predictions

#: Bins of reliability diagrams and calibration errors.
NUM_BINS = 15
_SEED = 0
_MAX_LOG_TEMPERATURE = 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Mean NLL in nats, Brier score, both calibration errors in [0, 1], and the reliability bins of some predictions.

    Each bin holds low < confidence <= high: {"low", "high", "count", "confidence", "accuracy"}, the last two being
    means, 0 of an empty bin.
    """

    nll: float
    ece: float
    adaptive_ece: float
    brier: float
    bins: list[dict[str, float]]

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def measure_calibration(predictions: Predictions) -> Calibration:
    """Calibration of the predictions as they are."""
    gap = predictions.correct - predictions.confidence
    bins, edges = bin_confidence(predictions.confidence), np.linspace(0, 1, NUM_BINS + 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    mean = [
        np.bincount(bins, values, NUM_BINS) / np.maximum(count, 1)
        for values in (predictions.confidence, predictions.correct.astype(np.float64))
    ]
    columns = (edges[:-1], edges[1:], count, *mean)
    return Calibration(
        nll=float(predictions.nll.mean()),
        ece=float(sum_bins(gap[None], bins)[0]) / len(predictions),
        adaptive_ece=float(sum_equal_mass(np.ones((1, len(predictions))), gap, predictions.confidence)[0])
        / len(predictions),
        brier=float(compute_brier(predictions).mean()),
        bins=[
            dict(zip(("low", "high", "count", "confidence", "accuracy"), row, strict=True))
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ],
    )


def draw_calibrated(predictions: Predictions, *, num_draws: int) -> dict[str, np.ndarray]:
    """Both calibration errors that a model would show by chance if its confidences were right.

    Whether an example is correct is drawn anew, with its confidence as the probability.

    Returns:
        "ece" and "adaptive_ece", float64 (num_draws).

    References:
        J. Bröcker, L. A. Smith, "Increasing the reliability of reliability diagrams", 2007 (consistency resampling).
    """
    rng, confidence = np.random.default_rng(_SEED), predictions.confidence
    bins, once = bin_confidence(confidence), np.ones((1, len(predictions)))
    errors = np.empty((num_draws, 2))
    for at in range(num_draws):
        gap = (rng.random((1, len(predictions))) < confidence) - confidence
        errors[at] = sum_bins(gap, bins)[0], sum_equal_mass(once, gap, confidence)[0]
    return dict(zip(("ece", "adaptive_ece"), errors.T / len(predictions), strict=True))


def compute_brier(predictions: Predictions) -> np.ndarray:
    """Squared distance of each example's probabilities from the truth, summed over classes: float64 (n), in [0, 2].

    References:
        G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    probability = np.exp(predictions.log_probability)
    own = probability[np.arange(len(predictions)), predictions.label]
    return (probability**2).sum(1) - 2 * own + 1


def bin_confidence(confidence: np.ndarray) -> np.ndarray:
    """Number of the bin of equal width in (0, 1] that each confidence falls into, int64 (n)."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def sum_bins(gap: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Expected calibration error times n.

    Args:
        gap: Correct (0 or 1) less confidence, times how often the example counts; float64 (r, n).
        bins: Of `bin_confidence`, (n).

    Returns:
        Sum over bins of the absolute sum of gaps, float64 (r).

    References:
        M. P. Naeini, G. F. Cooper, M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
        AAAI 2015.
    """
    return np.abs(sum_groups(gap, bins, NUM_BINS)).sum(1)


def sum_equal_mass(weights: np.ndarray, gap: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Calibration error over bins of equally many examples, times n.

    The sizes of the bins differ by at most one; an example that counts more than once may be in two, and examples of
    one confidence share their gaps evenly.

    Args:
        weights: How often each example counts, whole numbers that add up to n; float64 (r, n).
        gap: Correct (0 or 1) less confidence, float64 (n) or (r, n).
        confidence: (n).

    Returns:
        Sum over bins of the absolute sum of gaps, float64 (r).

    References:
        K. Nguyen, B. O'Connor, "Posterior calibration and exploratory analysis for natural language processing models",
        EMNLP 2015.
    """
    levels, place = np.unique(confidence, return_inverse=True)
    count = sum_groups(weights, place, len(levels))
    total = sum_groups(weights * gap, place, len(levels))
    smaller, num_larger = divmod(len(confidence), NUM_BINS)
    ends = np.cumsum(np.where(np.arange(NUM_BINS) < num_larger, smaller + 1, smaller))
    counted, summed = count.cumsum(1), total.cumsum(1)
    at = np.stack([np.searchsorted(row, ends) for row in counted])
    beyond = (np.take_along_axis(counted, at, 1) - ends) / np.maximum(np.take_along_axis(count, at, 1), 1)
    upto = np.take_along_axis(summed, at, 1) - beyond * np.take_along_axis(total, at, 1)
    return np.abs(np.diff(upto, axis=1, prepend=0)).sum(1)


def sum_groups(weights: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """Sums of `weights`, float64 (r, n), over the examples of each group, int (n): float64 (r, num_groups)."""
    order = np.argsort(group, kind="stable")
    present, starts = np.unique(group[order], return_index=True)
    sums = np.zeros((len(weights), num_groups))
    sums[:, present] = np.add.reduceat(weights.take(order, axis=1), starts, axis=1)
    return sums


def fit_temperature(predictions: Predictions) -> float | None:
    """The number by which to divide logits so that the NLL of `predictions` is least, between 1/148 and 148.

    None where every prediction is right: the smaller the temperature, the better, without end.

    References:
        C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    from scipy.optimize import minimize_scalar

    if predictions.correct.all():
        return None
    logits = predictions.logits.astype(np.float64)
    logits = logits - logits[np.arange(len(logits)), predictions.label][:, None]

    def compute_nll(log_temperature: float) -> float:
        scaled = logits * np.exp(-log_temperature)
        top = scaled.max(1)
        return float((top + np.log(np.exp(scaled - top[:, None]).sum(1))).mean())

    bounds = (-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE)
    found = minimize_scalar(compute_nll, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def scale_logits(predictions: Predictions, temperature: float) -> Predictions:
    """The same predictions, their logits divided by `temperature`."""
    return dataclasses.replace(predictions, logits=predictions.logits / np.float32(temperature))
