"""Metrics of a classifier from counts: each is right for any split into batches, as a mean of per-batch values is not.

Functions here take arrays of numpy or jax alike: logits (b k), labels (b) and kept (b), false for rows that do not
count.
"""

from typing import Any, Literal

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Positive
from mlvlab_jax.metrics.averages import Average, ZeroDivision, average_classes, divide, result_of, suffixed
from mlvlab_jax.plugins import METRICS


@configclass
class NoParams:
    """Nothing to choose."""


@configclass
class TopKParams:
    """Which k."""

    k: Positive = 5
    """Guesses among which the label must be."""


@configclass
class AverageParams:
    """From one number a class to one number."""

    average: Average = "macro"
    """macro: mean of all classes. weighted: by their examples. micro: over all decisions. none: an array."""
    zero_division: ZeroDivision = 0
    """Value of a class with nothing to divide by: 0, 1, or nan, which leaves it out of the average."""


@METRICS.register("loss", NoParams)
def loss(params: NoParams) -> Any:
    """Mean negative log likelihood (NLL) in nats; the training loss without label smoothing.

    Of several labels an image: the mean over the classes of the binary cross entropy.
    """
    from mlvlab_jax.metrics.base import make_counted

    def measure(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        xp = logits.__array_namespace__()
        if labels.ndim == 2:
            own = (logits * labels - xp.logaddexp(0, logits)).mean(-1)
        else:
            own = xp.take_along_axis(compute_log_probability(logits), labels[:, None], axis=-1)[:, 0]
        return {"sum": xp.where(kept, -own, 0).sum(), "count": _count(kept)}

    return make_counted("loss", measure=measure, finish=mean, target="any")


@METRICS.register("accuracy", NoParams)
def accuracy(params: NoParams) -> Any:
    """Share of examples whose largest logit is the label's (top-1); of several, where exactly theirs are above 0."""
    from mlvlab_jax.metrics.base import make_counted

    def measure(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        several = labels.ndim == 2
        right = ((logits > 0) == (labels > 0)).all(-1) if several else logits.argmax(-1) == labels
        return {"sum": _count(right & kept), "count": _count(kept)}

    return make_counted("accuracy", measure=measure, finish=mean, target="any")


@METRICS.register("top_k", TopKParams, example={"k": 2})
def top_k(params: TopKParams) -> Any:
    """Share of examples whose label is among the k largest logits; ties, and logits not a number, count against it."""
    from mlvlab_jax.metrics.base import make_counted

    def measure(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        xp = logits.__array_namespace__()
        own = xp.take_along_axis(logits, labels[:, None], axis=-1)
        rank = logits.shape[-1] - (logits < own).sum(-1)
        right = (rank <= params.k) & (own[:, 0] == own[:, 0])
        return {"sum": _count(right & kept), "count": _count(kept)}

    return make_counted(f"top_{params.k}", measure=measure, finish=mean)


@METRICS.register("precision", AverageParams, example={"average": "weighted"})
def precision(params: AverageParams) -> Any:
    """Of the examples taken for a class, the share of it. Named precision for macro, else precision_AVERAGE."""
    return _of_decisions("precision", params)


@METRICS.register("recall", AverageParams, example={"average": "micro"})
def recall(params: AverageParams) -> Any:
    """Of the examples of a class, the share taken for it. Named recall for macro, else recall_AVERAGE."""
    return _of_decisions("recall", params)


@METRICS.register("f1", AverageParams, example={"average": "none", "zero_division": "nan"})
def f1(params: AverageParams) -> Any:
    """Harmonic mean of precision and recall, class by class. Named f1 for macro, else f1_AVERAGE."""
    return _of_decisions("f1", params)


@METRICS.register("confusion_matrix", NoParams)
def confusion_matrix(params: NoParams) -> Any:
    """Examples by class (row) and prediction (column), int64 (k k); also an image in TensorBoard."""
    from mlvlab_jax.metrics.base import count_in_bins, make_counted

    def measure(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        num_classes = logits.shape[-1]
        xp = logits.__array_namespace__()
        cell = xp.where(kept, labels * num_classes + logits.argmax(-1), num_classes**2)
        return {"counts": count_in_bins(cell, num_classes**2).reshape(num_classes, num_classes)}

    return make_counted("confusion_matrix", measure=measure, finish=lambda totals: totals["counts"], result="array")


def count_decisions(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
    """Per class, int32 (k): `right` predictions, `predicted` and `support`, the examples of it.

    Taken by comparison with all classes, which costs less than a k x k confusion matrix and reduces locally where the
    batch is spread over devices.
    """
    xp = logits.__array_namespace__()
    classes = xp.arange(logits.shape[-1])[None, :]
    guess = (logits.argmax(-1)[:, None] == classes) & kept[:, None]
    truth = (labels[:, None] == classes) & kept[:, None]
    return {"right": _count(guess & truth), "predicted": _count(guess), "support": _count(truth)}


def compute_ratio(
    which: Literal["precision", "recall", "f1"], totals: dict[str, Any], *, average: Average, zero_division: float
) -> Any:
    """Precision, recall or F1 from counts `right`, `predicted` and `support`, each (k).

    Returns:
        A float, or float64 (k) for the average "none".
    """
    right, predicted, support = (totals[name] for name in ("right", "predicted", "support"))
    over = {"precision": predicted, "recall": support, "f1": (predicted + support) / 2}[which]
    if average == "micro":
        return float(divide(right.sum(), over.sum(), zero_division=zero_division))
    return average_classes(divide(right, over, zero_division=zero_division), support, average=average)


def compute_log_probability(logits: Any) -> Any:
    """Logarithms of the softmax, in the type of the logits (b k)."""
    xp = logits.__array_namespace__()
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(-1, keepdims=True))


def mean(totals: Any) -> float:
    """The sum over the count; nan for no examples."""
    return float(divide(totals["sum"], totals["count"], zero_division=float("nan")))


def _of_decisions(which: Literal["precision", "recall", "f1"], params: AverageParams) -> Any:
    from mlvlab_jax.metrics.base import make_counted

    zero_division = float(params.zero_division)

    def finish(totals: Any) -> Any:
        return compute_ratio(which, totals, average=params.average, zero_division=zero_division)

    name = suffixed(which, params.average)
    return make_counted(name, measure=count_decisions, finish=finish, result=result_of(params.average))


def _count(flags: Any) -> Any:
    """True values down the batch, int32."""
    return flags.sum(0, dtype=flags.__array_namespace__().int32)
