"""Keeps an image that the model fails on from harming its neighbours in the batch."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from mlvlab_jax.serving.predictor import Outputs

_log = logging.getLogger(__name__)


def answer_each(predict: Callable[[np.ndarray], Outputs], images: np.ndarray) -> tuple[Outputs | None, int]:
    """Answers to a batch; where it fails, each half is tried alone, so that only the guilty images have none.

    Returns:
        The answers, None where no image has one, and how many images have answers that are not finite. Rows of images
        without an answer are NaN.
    """
    try:
        outputs = predict(images)
    except Exception:  # noqa: BLE001 - whatever a network raises, the thread goes on to the next request
        _log.exception("a batch of %d images failed", len(images))
    else:
        return outputs, int(np.isnan(outputs.probabilities[:, 0]).sum())
    if len(images) == 1:
        return None, 0
    halves = np.array_split(images, 2)
    (left, num_left), (right, num_right) = (answer_each(predict, half) for half in halves)
    return _join((left, right), [len(half) for half in halves]), num_left + num_right


def concatenate(parts: Sequence[Outputs]) -> Outputs:
    """The answers of all parts, in their order."""
    return parts[0] if len(parts) == 1 else Outputs(*map(np.concatenate, zip(*parts, strict=True)))


def _join(halves: Sequence[Outputs | None], sizes: Sequence[int]) -> Outputs | None:
    """The answers to two halves as one; NaN for a half without any."""
    known = next((half for half in halves if half is not None), None)
    if known is None:
        return None
    return concatenate(
        [
            half or Outputs(*(np.full((size, *array.shape[1:]), np.nan, array.dtype) for array in known))
            for half, size in zip(halves, sizes, strict=True)
        ]
    )
