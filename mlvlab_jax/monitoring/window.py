"""A window: some hundred answered images in a row, described as the reference in the package describes its own."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.package.reference import Reference, measure_values

_UNKNOWN = (float("nan"), float("nan"))


class Window(NamedTuple):
    """What is compared with a reference.

    values: float32 (n) by the names of `Reference.values`, NaN where unknown, such as the size of a file where the
    client sent pixels. prediction: int32 (n), the predicted class. embedding: float32 (n p), projected.
    """

    values: Mapping[str, np.ndarray]
    prediction: np.ndarray
    embedding: np.ndarray


def make_window(observations: Sequence[Observation], reference: Reference) -> Window:
    """Describes answered images, n >= 1 of one shape, in the terms of `reference`."""
    probabilities = np.stack([seen.probabilities for seen in observations])
    return Window(
        values=measure_values(
            np.stack([seen.image for seen in observations]),
            sizes_px=np.array([seen.size_px or _UNKNOWN for seen in observations], np.float64),
            probabilities=probabilities,
        ),
        prediction=probabilities.argmax(axis=1).astype(np.int32),
        embedding=reference.project(np.stack([seen.embedding for seen in observations])),
    )
