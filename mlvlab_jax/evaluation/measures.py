"""What is measured of predictions, with intervals; each measure is a function of how often every example counts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mlvlab_jax.evaluation.calibration import (
    bin_confidence,
    compute_brier,
    draw_calibrated,
    sum_bins,
    sum_equal_mass,
    sum_groups,
)
from mlvlab_jax.evaluation.intervals import (
    NUM_RESAMPLES,
    Estimate,
    Measure,
    estimate_error,
    estimate_percentile,
    estimate_share,
    resample,
)
from mlvlab_jax.evaluation.predictions import Predictions
from mlvlab_jax.metrics.base import make_metrics
from mlvlab_jax.plugins import Spec

#: Scores beyond which the area under the ROC curve, which sorts every class by itself, and plugins are left out.
_MAX_ROC_SCORES = 2_000_000
#: Resamples of a plugin, which cannot be vectorised.
_NUM_PLUGIN = 200
_TOP = 5


def estimate_metrics(predictions: Predictions, more: Mapping[str, Measure]) -> dict[str, Estimate]:
    """Everything measured of `predictions`, by name, with 95 % intervals.

    Accuracy and the share of labels among the five most likely classes with Wilson's, those of `make_measures` and
    `more` with the bootstrap's.
    """
    estimates = {"accuracy": estimate_share(predictions.correct)}
    if predictions.logits.shape[1] > _TOP:
        estimates[f"top_{_TOP}"] = estimate_share(compute_rank(predictions) <= _TOP)
    measures = make_measures(predictions)
    more = {name: measure for name, measure in more.items() if name not in estimates.keys() | measures.keys()}
    resamples = resample(measures, len(predictions))
    if more:
        resamples |= resample(more, len(predictions), num_resamples=_NUM_PLUGIN)
    once = np.ones((1, len(predictions)))
    calibrated = draw_calibrated(predictions, num_draws=NUM_RESAMPLES)
    for name, measure in {**measures, **more}.items():
        value = float(measure(once)[0])
        if name in calibrated:
            estimates[name] = estimate_error(value, resamples[name], calibrated[name])
        else:
            estimates[name] = estimate_percentile(value, resamples[name])
    return estimates


def compute_rank(predictions: Predictions) -> np.ndarray:
    """Place of the label among the classes, 1 for the most likely; ties count against it; int64 (n)."""
    own = predictions.logits[np.arange(len(predictions)), predictions.label]
    return (predictions.logits >= own[:, None]).sum(1)


def make_measures(predictions: Predictions) -> dict[str, Measure]:
    """Everything measured of `predictions`, by name.

    loss (mean NLL in nats), brier, precision, recall and f1 (means over classes), ece and adaptive_ece, and, of up to
    two million scores and two classes at least, auroc (mean over classes, one against the rest).
    """
    measures = {"loss": measure_mean(predictions.nll), "brier": measure_mean(compute_brier(predictions))}
    for name in ("precision", "recall", "f1"):
        measures[name] = measure_macro(predictions, name)
    gap, bins = predictions.correct - predictions.confidence, bin_confidence(predictions.confidence)
    num_all, confidence = len(predictions), predictions.confidence
    measures["ece"] = lambda weights: sum_bins(weights * gap, bins) / num_all
    measures["adaptive_ece"] = lambda weights: sum_equal_mass(weights, gap, confidence) / num_all
    if predictions.logits.size <= _MAX_ROC_SCORES and len(np.unique(predictions.label)) > 1:
        measures["auroc"] = measure_auroc(predictions)
    return measures


def make_plugin_measures(specs: Iterable[Spec], predictions: Predictions) -> dict[str, Measure]:
    """The metrics that `specs` name, of one number each and of one label an image, by the names of their results.

    They are computed anew for every of 200 resamples, and left out, as auroc is, of more than two million scores.
    """
    if predictions.logits.size > _MAX_ROC_SCORES:
        return {}
    outputs = (predictions.logits, predictions.label)
    metrics = {n: m for n, m in make_metrics(specs).items() if getattr(m, "target", "class") == "class"}
    numbers = {name for name, metric in metrics.items() if isinstance(_compute(metric, *outputs), float)}
    return {name: _measure_plugin(metrics[name], *outputs) for name in metrics if name in numbers}


def _measure_plugin(metric: Any, logits: np.ndarray, label: np.ndarray) -> Measure:
    def measure(weights: np.ndarray) -> np.ndarray:
        drawn = (np.repeat(np.arange(len(row)), row.astype(np.int64)) for row in weights)
        return np.array([_compute(metric, logits[ids], label[ids]) for ids in drawn])

    return measure


def _compute(metric: Any, logits: np.ndarray, label: np.ndarray) -> Any:
    """The metric's result, a float where it is one number."""
    mask = np.ones(len(label), np.float32)
    result = metric.from_model_output(logits=logits, labels=label, mask=mask).compute()
    return result if isinstance(result, Mapping) or np.ndim(result) else float(result)


def measure_mean(values: np.ndarray) -> Measure:
    """Mean of `values`, float64 (n)."""
    return lambda weights: weights @ values / len(values)


def measure_macro(predictions: Predictions, name: str) -> Measure:
    """Mean over classes of precision, recall or F1.

    Where a ratio is 0 of 0 it counts as 0; a class that has only dropped out of a resample is left out there.
    """
    num_classes = predictions.logits.shape[1]
    label, prediction, correct = predictions.label, predictions.prediction, predictions.correct
    occurring = np.bincount(np.concatenate([label, prediction]), minlength=num_classes) > 0

    def measure(weights: np.ndarray) -> np.ndarray:
        support = sum_groups(weights, label, num_classes)
        predicted = sum_groups(weights, prediction, num_classes)
        hit = sum_groups(weights * correct, label, num_classes)
        whole = {"precision": predicted, "recall": support, "f1": (support + predicted) / 2}[name]
        dropped = occurring & (support + predicted == 0)
        return (hit / np.maximum(whole, 0.5)).sum(1) / (num_classes - dropped.sum(1))

    return measure


def measure_auroc(predictions: Predictions) -> Measure:
    """Mean over classes of the area under the ROC curve of its probability against all others; ties count half.

    A class without examples is left out; 0.5 for a resample of one class alone.

    References:
        J. A. Hanley, B. J. McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC)
        curve", 1982.
    """
    curves = [_measure_area(scores, predictions.label == k) for k, scores in enumerate(predictions.log_probability.T)]

    def measure(weights: np.ndarray) -> np.ndarray:
        area, pairs = (np.stack(values) for values in zip(*(curve(weights) for curve in curves), strict=True))
        present = pairs > 0
        mean = (area / np.where(present, pairs, 1)).sum(0) / np.maximum(present.sum(0), 1)
        return np.where(present.any(0), mean, 0.5)

    return measure


def _measure_area(scores: np.ndarray, own: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Pairs of an example of the class and another whose scores stand in the right order, and all pairs.

    Others are only counted between the scores of the class, of which there are few: `below` and `upto` are how many
    different ones of these an example surpasses and reaches.
    """
    levels, rank = np.unique(scores[own], return_inverse=True)
    spare = len(levels) + 1
    below = np.where(own, spare, np.searchsorted(levels, scores, "left"))
    upto = np.where(own, spare, np.searchsorted(levels, scores, "right"))

    def count(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positive = sum_groups(weights[:, own], rank, len(levels)) if len(levels) else np.zeros((len(weights), 0))
        negative = sum_groups(weights, below, spare + 1)[:, :spare]
        if not np.array_equal(below, upto):
            negative = (negative + sum_groups(weights, upto, spare + 1)[:, :spare]) / 2
        right = (positive * negative.cumsum(1)[:, :-1]).sum(1)
        return right, positive.sum(1) * negative.sum(1)

    return count
