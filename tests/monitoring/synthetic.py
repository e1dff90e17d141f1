"""Examples of a model that never was: correlated embeddings, skewed confidence, sizes that repeat, rare classes."""

from typing import NamedTuple

import numpy as np

from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.reference import make_reference

NUM_CLASSES, NUM_FEATURES = 10, 24
PRIOR = np.array([20, 20, 15, 15, 10, 8, 6, 4, 1.5, 0.5]) / 100


class Shift(NamedTuple):
    """How a window differs from what the reference is drawn from."""

    values: float = 0.0
    prior: float = 0.0
    embedding: float = 0.0


def draw(rng, num, shift=Shift()):  # noqa: B008 - a tuple
    """Values, prediction and raw embedding of `num` examples."""
    confidence = rng.beta(20 / (1 + shift.values), 1, num)
    values = {
        "brightness": rng.normal(100 - 20 * shift.values, 20, num),
        "height_px": rng.choice([240, 480, 720], num, p=[0.5, 0.3, 0.2]) * (1 + 0.5 * shift.values),
        "confidence": confidence,
    }
    prior = (1 - shift.prior) * PRIOR + shift.prior * (np.arange(NUM_CLASSES) == 9)
    prediction = rng.choice(NUM_CLASSES, num, p=prior)
    embedding = rng.normal(shift.embedding, 1, (num, NUM_FEATURES)) / np.arange(1, NUM_FEATURES + 1)
    return {name: value.astype(np.float32) for name, value in values.items()}, prediction, embedding


def draw_reference(rng, num):
    values, prediction, embedding = draw(rng, num)
    return make_reference(split="test", values=values, prediction=prediction, label=prediction, embedding=embedding)


def draw_window(rng, reference, num=500, shift=Shift()):  # noqa: B008 - a tuple
    values, prediction, embedding = draw(rng, num, shift)
    return Window(values, prediction.astype(np.int32), reference.project(embedding))
