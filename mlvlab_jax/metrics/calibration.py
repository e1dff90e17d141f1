"""Whether probabilities mean what they say. The negative log likelihood is the metric `loss`."""

from typing import Any, Literal

import numpy as np

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Positive
from mlvlab_jax.metrics.averages import divide
from mlvlab_jax.metrics.classification import NoParams, compute_log_probability, mean
from mlvlab_jax.plugins import METRICS


@configclass
class EceParams:
    """How confidences are grouped."""

    num_bins: Positive = 15
    """Groups of confidences; 15 is what published numbers use."""
    binning: Literal["equal_width", "adaptive"] = "equal_width"
    """equal_width: groups of one width. adaptive: groups of one size, so that none is nearly empty."""


@METRICS.register("brier", NoParams)
def brier(params: NoParams) -> Any:
    """Squared distance of the probabilities from the label's one-hot vector, mean over examples, in [0, 2].

    References:
        G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    from mlvlab_jax.metrics.base import make_counted

    def measure(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        xp = logits.__array_namespace__()
        truth = labels[:, None] == xp.arange(logits.shape[-1])[None, :]
        distance = ((xp.exp(compute_log_probability(logits)) - truth) ** 2).sum(-1)
        return {"sum": xp.where(kept, distance, 0).sum(), "count": kept.sum(dtype=xp.int32)}

    return make_counted("brier", measure=measure, finish=mean)


@METRICS.register("ece", EceParams, example={"num_bins": 4})
def ece(params: EceParams) -> Any:
    """Expected calibration error: |accuracy - confidence| of each group of examples, weighted by their number.

    Named ece, and adaptive_ece for the binning "adaptive", which keeps 5 bytes an example on the host.

    References:
        C. Guo et al., "On Calibration of Modern Neural Networks", 2017 (equal width).
        K. Nguyen, B. O'Connor, "Posterior calibration and exploratory analysis for natural language processing
        models", 2015 (adaptive).
    """
    from mlvlab_jax.metrics.base import make_collected, make_counted

    def count(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        return bin_by_width(**compute_confidence(logits, labels), kept=kept, num_bins=params.num_bins)

    def finish(rows: Any) -> float:
        return compute_ece(bin_by_mass(rows["confidence"], rows["right"], num_bins=params.num_bins))

    if params.binning == "equal_width":
        return make_counted("ece", measure=count, finish=compute_ece)
    return make_collected("adaptive_ece", measure=lambda x, labels, kept: compute_confidence(x, labels), finish=finish)


def compute_confidence(logits: Any, labels: Any) -> dict[str, Any]:
    """Probability of the predicted class, `confidence` (b) in [0, 1], and whether it is the label, `right` (b)."""
    xp = logits.__array_namespace__()
    return {
        "confidence": xp.exp(compute_log_probability(logits).max(-1)),
        "right": logits.argmax(-1) == labels,
    }


def bin_by_width(confidence: Any, right: Any, kept: Any, *, num_bins: int) -> dict[str, Any]:
    """Groups confidences (b) by the intervals (i / num_bins, (i + 1) / num_bins].

    Returns:
        Of each group `count` and the number `right`, int32 (num_bins), and the sum of `confidence`, float (num_bins).
    """
    xp = confidence.__array_namespace__()
    place = xp.clip(xp.ceil(confidence * num_bins) - 1, 0, num_bins - 1)
    member = (place[:, None] == xp.arange(num_bins, dtype=place.dtype)[None, :]) & kept[:, None]
    return {
        "count": member.sum(0, dtype=xp.int32),
        "right": (member & right[:, None]).sum(0, dtype=xp.int32),
        "confidence": xp.where(member, confidence[:, None], 0).sum(0),
    }


def bin_by_mass(confidence: np.ndarray, right: np.ndarray, *, num_bins: int) -> dict[str, np.ndarray]:
    """Groups confidences (n), ascending, into `num_bins` of sizes that differ by at most one; as `bin_by_width`.

    Examples of one confidence share their right answers evenly, so that no order among them matters.
    """
    values, place, count = np.unique(confidence, return_inverse=True, return_counts=True)
    shared = np.repeat(np.bincount(place, weights=right) / count, count)
    groups = np.array_split(np.arange(len(confidence)), min(num_bins, len(confidence)))
    ascending = np.repeat(values.astype(np.float64), count)
    return {
        "count": np.array([len(group) for group in groups]),
        "right": np.array([shared[group].sum() for group in groups]),
        "confidence": np.array([ascending[group].sum() for group in groups]),
    }


def compute_ece(bins: Any) -> float:
    """Expected calibration error from `count`, `right` and `confidence` of each group; nan for no examples."""
    gap = np.abs(bins["right"] - np.asarray(bins["confidence"], np.float64)).sum()
    return float(divide(gap, bins["count"].sum(), zero_division=float("nan")))
