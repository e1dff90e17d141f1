"""Whether a classifier can tell the window's embeddings from the reference's."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.monitoring.drift.finding import MIN_KNOWN, DriftTest, Finding
from mlvlab_jax.monitoring.drift.permutations import judge, pool
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import Reference
from mlvlab_jax.plugins import DRIFT_TESTS

#: Directions of the embedding with less than this share of the largest variance are noise of float32.
_MIN_VARIANCE = 1e-6


@configclass
class DomainClassifierParams:
    """How closely to look, and when a success matters."""

    num_folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Parts, each scored by a classifier that saw the others."""
    num_permutations: Annotated[int, Field(ge=100)] = 500
    """Draws without drift that the success is judged by."""
    max_examples: Annotated[int, Field(ge=500)] = 2000
    """Examples of the window, and of the reference, that are compared."""
    min_effect: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Area under the ROC curve over 0.5 below which nothing is called different."""


@DRIFT_TESTS.register("domain_classifier", DomainClassifierParams, example={"num_permutations": 200})
def make_domain_classifier(params: DomainClassifierParams, *, reference: Reference) -> DriftTest:
    """Linear discriminant between window and reference, cross-validated on the projected embeddings.

    The effect is the area under the ROC curve of examples it was not fitted to, less 0.5, in [0, 0.5]. Permutations
    judge it, each with classifiers of its own: scores of different folds depend on one another, so that neither the
    binomial nor the rank-sum distribution holds for them.

    References:
        D. Lopez-Paz, M. Oquab, "Revisiting classifier two-sample tests", ICLR 2017.
        R. A. Fisher, "The use of multiple measurements in taxonomic problems", 1936 (the discriminant).
    """

    def measure(window: Window) -> list[Finding]:
        theirs = window.embedding[np.isfinite(window.embedding).all(1)]
        if len(theirs) < MIN_KNOWN:
            return []
        pooled, in_window = pool(
            reference.embedding,
            theirs,
            num_permutations=params.num_permutations,
            max_examples=params.max_examples,
        )
        rows = whiten(pooled)
        if rows.shape[1] == 0:
            return [Finding("embedding", 1.0, 0.0)]  # all embeddings are one

        def compute_area(labels: np.ndarray) -> np.ndarray:
            return compute_auc(score_folds(rows, labels, num_folds=params.num_folds), labels)

        p_value, area = judge(compute_area, in_window)
        return [Finding("embedding", p_value, max(0.0, area - 0.5))]

    return DriftTest(measure, params.min_effect)


def whiten(rows: np.ndarray) -> np.ndarray:
    """Rows, float32 (n p), centred, turned and scaled to the identity as covariance: (n q), q <= p directions left."""
    centred = rows - rows.mean(0)
    variance, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    kept = variance > _MIN_VARIANCE * variance[-1]
    return centred @ (axes[:, kept] / np.sqrt(variance[kept]))


def score_folds(rows: np.ndarray, in_window: np.ndarray, *, num_folds: int) -> np.ndarray:
    """How much each row looks like one of the window to a discriminant fitted without its fold.

    On whitened rows the discriminant is the difference of the two means: the covariance of all rows together, which
    permutations leave as it is, gives the same direction as that within the two samples.

    Args:
        rows: Whitened, in random order, float32 (n q).
        in_window: bool (r n), the labels of r classifiers.
        num_folds: Parts of consecutive rows.

    Returns:
        float32 (r n).
    """
    chosen = in_window.astype(rows.dtype)
    scores = np.empty_like(chosen)
    for fold in np.array_split(np.arange(len(rows)), num_folds):
        train = np.ones(len(rows), bool)
        train[fold] = False
        num_in = chosen[:, train].sum(1, keepdims=True)
        sum_in = chosen[:, train] @ rows[train]
        others = rows[train].sum(0)[None] - sum_in
        direction = sum_in / num_in - others / (train.sum() - num_in)
        scores[:, fold] = direction @ rows[fold].T
    return scores


def compute_auc(scores: np.ndarray, in_window: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each row of scores, float (r n), for the labels bool (r n), equally many in a row.

    Equal scores are in an order that has nothing to do with the labels.
    """
    ranked = np.take_along_axis(in_window, np.argsort(scores, axis=1), axis=1)
    n, m = int(in_window[0].sum()), int((~in_window[0]).sum())
    ranks: np.ndarray = ranked @ np.arange(1.0, n + m + 1)
    return (ranks - n * (n + 1) / 2) / (n * m)
