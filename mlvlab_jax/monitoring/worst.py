"""The images of a window that are least like the reference."""

import heapq
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.package.reference import Reference

#: Added to each direction's variance, as a share of the largest, so that one without any does not decide alone.
_RIDGE = 1e-3
#: Distance of an embedding that is not finite.
_FURTHEST = 1e9


class WorstImage(NamedTuple):
    """An image, the answer to it, and its distance from the reference."""

    request_id: str
    item: int
    image: np.ndarray
    prediction: int
    confidence: float
    distance: float


class WorstImages:
    """Keeps the `num` images furthest from the reference, and no other.

    The distance is Mahalanobis' in the embedding: standard deviations from the mean of the reference.

    References:
        P. C. Mahalanobis, "On the generalised distance in statistics", 1936.
        K. Lee, K. Lee, H. Lee, J. Shin, "A simple unified framework for detecting out-of-distribution samples and
        adversarial attacks", NeurIPS 2018 (of a network's features).
    """

    def __init__(self, reference: Reference, *, num: int) -> None:
        self._num = num
        self._mean, self._whiten = _fit(reference.embedding.astype(np.float64))
        self._order = itertools.count()
        self._heap: list[tuple[float, int, WorstImage]] = []

    def add(self, observations: Sequence[Observation], embedding: np.ndarray) -> None:
        """Looks at some more images and their embeddings as the reference projects them, (b p)."""
        with np.errstate(invalid="ignore"):
            distances = np.linalg.norm((embedding - self._mean) @ self._whiten, axis=1)
        distances = np.nan_to_num(distances, nan=_FURTHEST, posinf=_FURTHEST)
        for seen, distance in zip(observations, distances.tolist(), strict=True):
            if len(self._heap) == self._num and not (self._heap and distance > self._heap[0][0]):
                continue
            worst = WorstImage(
                request_id=seen.request_id,
                item=seen.item,
                image=seen.image.copy(),  # not a view that keeps its whole batch
                prediction=int(seen.probabilities.argmax()),
                confidence=float(seen.probabilities.max()),
                distance=distance,
            )
            push = heapq.heappush if len(self._heap) < self._num else heapq.heapreplace
            push(self._heap, (distance, -next(self._order), worst))

    def take(self) -> tuple[WorstImage, ...]:
        """The images, the furthest first, of which none is kept then."""
        kept, self._heap = sorted(self._heap, reverse=True), []
        return tuple(worst for _, _, worst in kept)


def _fit(embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (p) of embeddings (n p), and the matrix (p p) after which their covariance is the identity."""
    mean = embedding.mean(0)
    variances, directions = np.linalg.eigh((embedding - mean).T @ (embedding - mean) / len(embedding))
    ridge = _RIDGE * variances.max() or 1.0
    return mean, directions / np.sqrt(np.maximum(variances, 0.0) + ridge)
