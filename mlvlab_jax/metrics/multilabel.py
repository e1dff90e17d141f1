"""Metrics of images with several labels: logits (b k), labels 0 or 1 (b k), each label a decision of its own.

The probability of a label is the sigmoid of its logit. No result is nan but that of no examples.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.metrics.averages import Average, ZeroDivision, average_classes, result_of, suffixed
from mlvlab_jax.metrics.classification import NoParams, compute_ratio, mean
from mlvlab_jax.metrics.ranking import compute_average_precision, count_by_score
from mlvlab_jax.plugins import METRICS

Probability = Annotated[float, Field(gt=0, lt=1)]


@configclass
class SubsetParams:
    """When a label is predicted."""

    threshold: Probability = 0.5
    """Smallest probability of a predicted label."""


@configclass
class LabelParams:
    """When a label is predicted, and from one number a label to one number."""

    threshold: Probability = 0.5
    """Smallest probability of a predicted label."""
    average: Average = "macro"
    """macro: mean of all labels. weighted: by their examples. micro: over all decisions. none: an array."""
    zero_division: ZeroDivision = 0
    """Value of a label with nothing to divide by: 0, 1, or nan, which leaves it out of the average."""


@METRICS.register("multilabel_accuracy", SubsetParams, example={"threshold": 0.4})
def multilabel_accuracy(params: SubsetParams) -> Any:
    """Share of examples all of whose labels are right (subset accuracy)."""
    from mlvlab_jax.metrics.base import make_counted

    def measure(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        xp = logits.__array_namespace__()
        right = ((logits >= _logit(params.threshold)) == (labels > 0)).all(-1)
        return {"sum": (right & kept).sum(dtype=xp.int32), "count": kept.sum(dtype=xp.int32)}

    return make_counted("multilabel_accuracy", measure=measure, finish=mean, target="labels")


@METRICS.register("multilabel_precision", LabelParams, example={"average": "macro"})
def multilabel_precision(params: LabelParams) -> Any:
    """Of the examples predicted to have a label, the share that have it."""
    return _of_labels("precision", params)


@METRICS.register("multilabel_recall", LabelParams, example={"average": "micro", "threshold": 0.3})
def multilabel_recall(params: LabelParams) -> Any:
    """Of the examples with a label, the share predicted to have it."""
    return _of_labels("recall", params)


@METRICS.register("multilabel_f1", LabelParams, example={"average": "none"})
def multilabel_f1(params: LabelParams) -> Any:
    """Harmonic mean of precision and recall, label by label."""
    return _of_labels("f1", params)


@METRICS.register("mean_average_precision", NoParams)
def mean_average_precision(params: NoParams) -> Any:
    """Mean over labels of their average precision (mAP); labels no example has are left out, 0 if that is all.

    Keeps all logits and labels on the host, 8 k bytes an example.
    """
    from mlvlab_jax.metrics.base import make_collected

    def finish(rows: Any) -> float:
        columns = zip(rows["logits"].T, rows["labels"].T > 0, strict=True)
        values = np.stack([compute_average_precision(*count_by_score(*column)) for column in columns])
        return float(np.nan_to_num(average_classes(values, np.ones_like(values), average="macro")))

    return make_collected(
        "mean_average_precision",
        measure=lambda logits, labels, kept: {"logits": logits, "labels": labels},
        finish=finish,
        target="labels",
    )


def _of_labels(which: Literal["precision", "recall", "f1"], params: LabelParams) -> Any:
    from mlvlab_jax.metrics.base import make_counted

    zero_division = float(params.zero_division)

    def measure(logits: Any, labels: Any, kept: Any) -> dict[str, Any]:
        int32 = logits.__array_namespace__().int32
        guess = (logits >= _logit(params.threshold)) & kept[:, None]
        truth = (labels > 0) & kept[:, None]
        counts = {"right": guess & truth, "predicted": guess, "support": truth}
        return {name: flags.sum(0, dtype=int32) for name, flags in counts.items()}

    def finish(totals: Any) -> Any:
        return compute_ratio(which, totals, average=params.average, zero_division=zero_division)

    name = f"multilabel_{suffixed(which, params.average)}"
    return make_counted(name, measure=measure, finish=finish, result=result_of(params.average), target="labels")


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
