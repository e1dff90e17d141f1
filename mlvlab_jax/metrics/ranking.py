"""How well scores rank: area under the ROC curve and average precision, each class against the rest.

Both follow from how many positives and negatives there are at each score, so that ties count as ties. The exact form
keeps all logits on the host, 4 k bytes an example; the streaming form counts log-odds in bins and says how far it can
be from the exact number.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.metrics.averages import average_classes, divide, result_of, suffixed
from mlvlab_jax.metrics.classification import compute_log_probability
from mlvlab_jax.plugins import METRICS

#: Log-odds beyond which all scores share a bin: float32 probabilities are as near to 0 or 1 as it tells apart.
_LARGEST_LOG_ODDS = 16.0


@configclass
class RankingParams:
    """How to rank, and from one number a class to one number."""

    average: Literal["macro", "weighted", "none"] = "macro"
    """macro: mean of all classes that have a value. weighted: by their examples. none: an array."""
    method: Literal["exact", "streaming"] = "exact"
    """exact: of all logits, kept in memory. streaming: of counts in bins; also gives NAME_max_error, a proven bound."""
    num_bins: Annotated[int, Field(gt=1)] = 1024
    """Bins a class of the streaming form, over log-odds from -16 to 16; more is nearer and takes 16 bytes each."""


@METRICS.register("auroc", RankingParams, example={"average": "macro"})
def auroc(params: RankingParams) -> Any:
    """Chance that an example of the class scores above one of another class, ties half; nan for no pair.

    Named auroc for macro, else auroc_AVERAGE. With two classes it is that of either.

    References:
        T. Fawcett, "An introduction to ROC analysis", 2006.
    """
    return _of_ranks("auroc", params, compute=compute_auroc, bound=bound_auroc_error)


@METRICS.register("average_precision", RankingParams, example={"average": "none", "method": "streaming"})
def average_precision(params: RankingParams) -> Any:
    """Precision at the score of each example of the class, averaged over them, without interpolation; nan for none.

    Named average_precision for macro, else average_precision_AVERAGE.

    References:
        J. Davis, M. Goadrich, "The Relationship Between Precision-Recall and ROC Curves", 2006.
    """
    compute, bound = compute_average_precision, bound_average_precision_error
    return _of_ranks("average_precision", params, compute=compute, bound=bound)


def count_by_score(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at each of m distinct scores, ascending, from scores (n) and `positive`, bool (n)."""
    values, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place, minlength=len(values))
    positives = np.bincount(place[positive], minlength=len(values))
    return positives, counts - positives


def compute_auroc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Area under the ROC curve from counts (... m) at ascending scores: (...), nan without positives or negatives."""
    below = negatives.cumsum(-1) - negatives
    wins = (positives * (below + negatives / 2)).sum(-1)
    pairs = positives.sum(-1) * negatives.sum(-1, dtype=np.float64)
    return divide(wins, pairs, zero_division=float("nan"))


def bound_auroc_error(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Farthest the AUROC of counts in bins can be from that of the scores: half the pairs that share a bin."""
    pairs = positives.sum(-1) * negatives.sum(-1, dtype=np.float64)
    return divide((positives * negatives.astype(np.float64)).sum(-1) / 2, pairs, zero_division=float("nan"))


def compute_average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Average precision from counts (... m) at ascending scores: (...), nan without positives."""
    right, wrong = _at_or_above(positives), _at_or_above(negatives)
    precision = divide(right, right + wrong, zero_division=0.0)
    return divide((positives * precision).sum(-1), positives.sum(-1), zero_division=float("nan"))


def bound_average_precision_error(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Farthest the average precision of counts in bins can be from that of the scores.

    Precision inside a bin is highest where its positives are tied above its negatives, and lowest where they come one
    by one below them; the sum of that series is bounded by its integral.
    """
    right, wrong = _at_or_above(positives), _at_or_above(negatives)
    highest = positives * divide(right, right + wrong - negatives, zero_division=0.0)
    growth = divide(right + wrong, right + wrong - positives, zero_division=1.0)
    lowest = positives - wrong * np.log(growth)
    total, here = positives.sum(-1), positives * divide(right, right + wrong, zero_division=0.0)
    error = np.maximum((highest - here).sum(-1), (here - lowest).sum(-1))
    return divide(error, total, zero_division=float("nan"))


def _at_or_above(counts: np.ndarray) -> np.ndarray:
    return counts[..., ::-1].cumsum(-1)[..., ::-1]


Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _of_ranks(which: str, params: RankingParams, *, compute: Curve, bound: Curve) -> Any:
    from mlvlab_jax.metrics.base import make_collected, make_counted

    name, result = suffixed(which, params.average), result_of(params.average)

    def average(values: np.ndarray, support: np.ndarray) -> Any:
        return average_classes(values, support, average=params.average)

    def finish_exact(rows: Any) -> Any:
        scores = compute_log_probability(rows["logits"].astype(np.float64))
        truth = rows["labels"][:, None] == np.arange(scores.shape[1])
        values = [compute(*count_by_score(*columns)) for columns in zip(scores.T, truth.T, strict=True)]
        return average(np.stack(values), truth.sum(0))

    def finish_streaming(totals: Any) -> Any:
        positives, negatives = totals["positives"], totals["all"] - totals["positives"]
        support = positives.sum(-1)
        value, error = (average(curve(positives, negatives), support) for curve in (compute, bound))
        return {name: value, f"{name}_max_error": error}

    def count(logits: Any, labels: Any, kept: Any) -> Any:
        return count_log_odds(logits, labels, kept, num_bins=params.num_bins)

    if params.method == "streaming":
        return make_counted(name, measure=count, finish=finish_streaming, result=result)
    return make_collected(
        name,
        measure=lambda logits, labels, kept: {"logits": logits, "labels": labels},
        finish=finish_exact,
        result=result,
    )


def count_log_odds(logits: Any, labels: Any, kept: Any, *, num_bins: int) -> dict[str, Any]:
    """Examples in bins of each class's log-odds.

    Args:
        logits: (b k).
        labels: int (b).
        kept: bool (b).
        num_bins: Bins of equal width from -16 to 16.

    Returns:
        `all` examples and `positives`, those of the class; int (k num_bins), scores ascending.
    """
    from mlvlab_jax.metrics.base import count_in_bins

    xp, num_classes = logits.__array_namespace__(), logits.shape[-1]
    log_p = xp.minimum(compute_log_probability(logits), -1e-7)
    log_odds = log_p - xp.log(-xp.expm1(log_p))
    share = (xp.clip(log_odds, -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS) + _LARGEST_LOG_ODDS) / (2 * _LARGEST_LOG_ODDS)
    level = xp.minimum((share * num_bins).astype(xp.int32), num_bins - 1)
    cell = level + xp.arange(num_classes, dtype=xp.int32)[None, :] * num_bins
    cell = xp.where(kept[:, None], cell, num_classes * num_bins)
    own = xp.take_along_axis(cell, labels[:, None], axis=-1)
    shape = (num_classes, num_bins)
    counts = {"all": cell, "positives": own}
    return {name: count_in_bins(x.reshape(-1), num_classes * num_bins).reshape(shape) for name, x in counts.items()}
