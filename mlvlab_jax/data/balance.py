"""Classes of very different size: how much each counts in the training loss, or how often it is seen."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mlvlab_jax.data.order import Part, Split
from mlvlab_jax.data.source import count_classes
from mlvlab_jax.errors import ConfigError

_WEIGHTS, _SAMPLING = "pipeline.class_weights", "pipeline.class_sampling"


def weigh_classes(
    split: Split, weights: Mapping[str, float] | Literal["balanced"], class_names: tuple[str, ...]
) -> Split:
    """`split` whose examples count in the loss as their class says, on top of weights of their own.

    Args:
        split: The training split.
        weights: By class name, 1 for those not named; or balanced: n / (k * n_c) for each of the n_c examples of one of
            the k classes that have any, so that all classes count alike and the mean weight is 1.
        class_names: Of the labels.

    Raises:
        ConfigError: A name is no class, or an example may have several classes, or the labels are not known.
    """
    labels = _labels_of(split, path=_WEIGHTS)
    if isinstance(weights, str):
        counts = count_classes(labels[split.ids], num_classes=len(class_names), label_sets=None)
        by_class = len(split) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        for name in weights:
            if name not in class_names:
                near = difflib.get_close_matches(name, class_names, n=3) or class_names[:3]
                raise ConfigError(f"{name!r} is no class; near: {', '.join(near)}", path=_WEIGHTS)
        by_class = np.array([weights.get(name, 1.0) for name in class_names])
    known = (labels >= 0) & (labels < len(class_names))  # of an unreadable example the label may be anything
    scale = np.where(known, by_class[np.where(known, labels, 0)], 0.0)
    own = 1.0 if split.weights is None else split.weights
    return dataclasses.replace(split, weights=(own * scale).astype(np.float32))


def sample_classes_evenly(split: Split, *, num_classes: int) -> Split:
    """`split` of whose epochs, as long as before, every class makes the same part; small classes are seen repeatedly.

    Raises:
        ConfigError: An example may have several classes, the labels are not known, or the data are a mixture by shares.
    """
    labels = _labels_of(split, path=_SAMPLING)
    if split.parts is not None:
        raise ConfigError(
            "the data are a mixture with shares of its own, which cannot be kept too; leave out one of the two",
            path=_SAMPLING,
        )
    groups = [split.ids[labels[split.ids] == k] for k in range(num_classes)]
    groups = [ids for ids in groups if len(ids)]
    size, rest = divmod(len(split), len(groups))
    return dataclasses.replace(split, parts=tuple(Part(ids, size + (i < rest)) for i, ids in enumerate(groups)))


def _labels_of(split: Split, *, path: str) -> np.ndarray:
    if split.label_sets is not None:
        raise ConfigError("an example of these data may have several classes; expected one class each", path=path)
    labels: np.ndarray | None = getattr(split.source, "labels", None)
    if labels is None:
        raise ConfigError("this data source does not tell its labels before its images are read", path=path)
    return labels
