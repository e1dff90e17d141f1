"""Where the right and the wrong predictions are: by class, and one by one."""

from typing import Any

import numpy as np

from mlvlab_jax.evaluation.intervals import compute_wilson
from mlvlab_jax.evaluation.predictions import Predictions

#: Mistakes that are kept.
_NUM_MISTAKES = 24


def count_confusion(predictions: Predictions) -> np.ndarray:
    """Examples by class (row) and prediction (column), int64 (k, k)."""
    num_classes = predictions.logits.shape[1]
    cells = predictions.label.astype(np.int64) * num_classes + predictions.prediction
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def describe_classes(confusion: np.ndarray, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row a class.

    Args:
        confusion: Of `count_confusion`, (k, k).
        class_names: Names of the k classes.

    Returns:
        "name", "support" (examples of the class), "predicted" (examples taken for it), "precision", "recall", "f1", and
        Wilson's 95 % interval of the recall, "recall_low" and "recall_high". 0 of 0 counts as 0.
    """
    right, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    low, high = compute_wilson(right, support)
    columns = {
        "name": np.array(class_names, object),
        "support": support,
        "predicted": predicted,
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(support, 1),
        "f1": 2 * right / np.maximum(support + predicted, 1),
        "recall_low": low,
        "recall_high": high,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def list_mistakes(predictions: Predictions) -> list[dict[str, Any]]:
    """The 24 most confident wrong predictions: "id", "index", class numbers "label" and "prediction", "confidence"."""
    wrong = np.flatnonzero(~predictions.correct)
    worst = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:_NUM_MISTAKES]
    return [
        {
            "id": predictions.ids[at],
            "index": int(predictions.index[at]),
            "label": int(predictions.label[at]),
            "prediction": int(predictions.prediction[at]),
            "confidence": float(predictions.confidence[at]),
        }
        for at in worst.tolist()
    ]
