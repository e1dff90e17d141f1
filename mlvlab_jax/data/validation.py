"""Rules one image and one batch must keep. Subclass `DataValidator` for rules of your own.

Standalone, call `validate_sample` and `validate_batch`; or name the class in `validation.validator`, and
`mlvlab validate` calls them on every example. Images come as float32 (h, w, c) in [0, 1], as the network will see them
before mean and standard deviation.
"""

import abc
import importlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mlvlab_jax.errors import ConfigError, DataError


class ValidationError(DataError):
    """Data that breaks a rule; `kind` is a short name of the rule ("shape"), under which findings are counted."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class DataValidator(abc.ABC):
    """Rules of a data set.

    Args:
        valid_labels: The labels there may be.
        shape: Of every image (h, w, c); None allows any.
    """

    def __init__(self, *, valid_labels: Collection[int], shape: tuple[int, ...] | None = None) -> None:
        self.valid_labels = valid_labels
        self.shape = shape

    @abc.abstractmethod
    def validate_sample(self, image: np.ndarray, label: Any) -> None:
        """Checks one example; its label is a class number, or a tuple of them where it may have several.

        Raises:
            ValidationError: It breaks a rule.
        """

    @abc.abstractmethod
    def validate_batch(self, batch: Mapping[str, Any]) -> None:
        """Checks what only shows in many examples: {"images": (b, h, w, c), "labels": (b)}, or "image" and "label".

        Raises:
            ValidationError: The batch breaks a rule.
        """


class ImageDataValidator(DataValidator):
    """Shape, range and label of each image; counts and statistics of each batch.

    Args:
        valid_labels: As of `DataValidator`.
        shape: As of `DataValidator`.
        value_range: Smallest and largest pixel value allowed.
    """

    def __init__(
        self,
        *,
        valid_labels: Collection[int],
        shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(valid_labels=valid_labels, shape=shape)
        self.value_range = value_range

    def validate_sample(self, image: np.ndarray, label: Any) -> None:
        """Checks one example.

        Raises:
            ValidationError: Of kind "shape", "not finite", "range" or "label".
        """
        if self.shape is not None and image.shape != tuple(self.shape):
            raise ValidationError(f"shape {image.shape}; expected {tuple(self.shape)}", kind="shape")
        self._check_values(image)
        if any(one not in self.valid_labels for one in (label if isinstance(label, tuple) else (label,))):
            raise ValidationError(f"label {label!r}; expected one of {_shorten(self.valid_labels)}", kind="label")

    def validate_batch(self, batch: Mapping[str, Any]) -> None:
        """Checks lengths, then the statistics of the images.

        Raises:
            ValidationError: Of kind "batch", "not finite", "range" or "batch statistics".
        """
        images, labels = (_column(batch, name) for name in ("image", "label"))
        if len(images) == 0 or images.shape[0] != labels.shape[0]:
            raise ValidationError(f"{len(images)} images, {len(labels)} labels; expected one label each", kind="batch")
        self._check_batch_statistics(images)

    def _check_batch_statistics(self, images: np.ndarray) -> None:
        """Values finite and in range, and not all images alike."""
        self._check_values(images)
        if len(images) > 1 and not np.any(images != images[:1]):
            raise ValidationError(f"all {len(images)} images are the same", kind="batch statistics")

    def _check_values(self, values: np.ndarray) -> None:
        low, high = self.value_range
        if not np.isfinite(values).all():
            raise ValidationError("values that are NaN or infinite; expected finite ones", kind="not finite")
        if values.size and (values.min() < low or values.max() > high):
            found = f"{values.min():g} to {values.max():g}"
            raise ValidationError(f"values from {found}; expected {low:g} to {high:g}; scale the images", kind="range")


def load_validator(name: str) -> type[DataValidator]:
    """The class at a dotted name ("my_package.checks.MyValidator").

    Raises:
        ConfigError: It cannot be imported, or is not a `DataValidator`.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{name!r} cannot be imported: {error}; expected module.Class, on PYTHONPATH", path="validation.validator"
        ) from None
    if not (isinstance(found, type) and issubclass(found, DataValidator)):
        raise ConfigError(f"{name!r} is {found!r}; expected a subclass of DataValidator", path="validation.validator")
    return found


def _column(batch: Mapping[str, Any], name: str) -> np.ndarray:
    for key in (name, f"{name}s"):
        if key in batch:
            return np.asarray(batch[key])
    raise ValidationError(f"the batch has {sorted(batch)}; expected {name!r} or '{name}s'", kind="batch")


def _shorten(labels: Collection[int]) -> str:
    listed = list(labels)
    return str(listed) if len(listed) <= 10 else f"{listed[0]} ... {listed[-1]}"
