"""What a data set looks like, in counts: the reference that new data are compared with.

Everything is an integer count, so that profiles of parts add up to exactly the profile of the whole, in any order.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from mlvlab_jax.data.statistics import describe_grey
from mlvlab_jax.errors import DataError

FORMAT = 1

#: What is known of one image, each with the limits between its bins: bin i holds
#: limits[i - 1] <= value < limits[i]; the
#: first and the last bin are open. They belong to the format: other limits, another FORMAT.
LIMITS: Mapping[str, np.ndarray] = MappingProxyType(
    {
        "brightness": np.arange(1.0, 256.0),
        "sharpness": 2.0 ** (np.arange(-16, 81) / 4),
        "height_px": 2.0 ** (np.arange(0, 129) / 8),
        "width_px": 2.0 ** (np.arange(0, 129) / 8),
        "aspect": 2.0 ** (np.arange(-32, 33) / 8),
        "file_bytes": 2.0 ** (np.arange(0, 161) / 4),
    }
)
Quantity = Literal["brightness", "sharpness", "height_px", "width_px", "aspect", "file_bytes"]


@dataclasses.dataclass(frozen=True, eq=False)
class DataProfile:
    """Counts over the images seen so far.

    pixels: int64 (c, 256), how often a channel has a value. labels: int64 (k). histograms: int64, one for each quantity
    in `LIMITS`: brightness (mean grey, 0 to 255), sharpness (variance of the Laplacian of grey), height_px and
    width_px, aspect (width over height), file_bytes (of the images whose file size was given).
    """

    pixels: np.ndarray
    labels: np.ndarray
    histograms: Mapping[str, np.ndarray]

    @classmethod
    def empty(cls, num_classes: int, num_channels: int) -> "DataProfile":
        """The profile of no images."""
        histograms = {name: np.zeros(len(limits) + 1, np.int64) for name, limits in LIMITS.items()}
        return cls(np.zeros((num_channels, 256), np.int64), np.zeros(num_classes, np.int64), histograms)

    @property
    def num_images(self) -> int:
        """Images seen."""
        return int(self.labels.sum())

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, pixels scaled to [0, 1], as `pipeline.mean` takes it; NaN of no images."""
        return tuple(_moments(counts)[0] for counts in self.pixels)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, pixels scaled to [0, 1]; NaN of no images."""
        return tuple(_moments(counts)[1] for counts in self.pixels)

    def quantile(self, quantity: Quantity, fraction: float) -> float:
        """The smallest value that at least `fraction` of the images do not exceed, as the lower limit of its bin.

        Bins are 1 wide for brightness, a factor of 1.19 for sharpness and file size, 1.09 for height, width and aspect.
        NaN of no images.
        """
        counts = self.histograms[quantity]
        if counts.sum() == 0:
            return float("nan")
        at = int(np.searchsorted(np.cumsum(counts), max(1, np.ceil(fraction * counts.sum()))))
        return float(LIMITS[quantity][at - 1]) if at else 0.0

    def update(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        sizes_px: np.ndarray | None = None,
        file_bytes: np.ndarray | None = None,
    ) -> "DataProfile":
        """The profile with some hundred more images.

        Args:
            images: uint8 (b, h, w, c).
            labels: int (b), in [0, num_classes), or (b, k), 1 for each class of an example that may have several.
            sizes_px: int (b, 2), height and width of the images as stored, where they were resized since.
            file_bytes: int (b), sizes of their files, where known.

        Raises:
            DataError: Another number of channels, or a label out of range.
        """
        num_channels, num_classes = len(self.pixels), len(self.labels)
        if images.ndim != 4 or images.shape[3] != num_channels:
            raise DataError(f"images are {images.shape}; expected (b, h, w, {num_channels}) like those profiled before")
        if labels.ndim == 2:
            labels = np.nonzero(labels)[1]
        if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
            raise DataError(f"labels are {labels.min()}..{labels.max()}; expected 0..{num_classes - 1}")
        if sizes_px is None:
            sizes_px = np.tile(images.shape[1:3], (len(images), 1))
        grey = describe_grey(images)
        values = {name: grey[name] for name in ("brightness", "sharpness")}
        values |= {"height_px": sizes_px[:, 0], "width_px": sizes_px[:, 1], "aspect": sizes_px[:, 1] / sizes_px[:, 0]}
        if file_bytes is not None:
            values["file_bytes"] = file_bytes
        counted = {name: _count(value, LIMITS[name]) for name, value in values.items()}
        pixels = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(num_channels)])
        added = {name: old + counted[name] if name in counted else old for name, old in self.histograms.items()}
        return DataProfile(self.pixels + pixels, self.labels + np.bincount(labels, minlength=num_classes), added)

    def merge(self, other: "DataProfile") -> "DataProfile":
        """The profile of the images of both.

        Raises:
            DataError: They differ in the number of classes or channels.
        """
        mine, theirs = ((len(p.labels), len(p.pixels)) for p in (self, other))
        if mine != theirs:
            raise DataError(f"profiles of (classes, channels) {mine} and {theirs}; expected the same of both")
        histograms = {name: old + other.histograms[name] for name, old in self.histograms.items()}
        return DataProfile(self.pixels + other.pixels, self.labels + other.labels, histograms)

    def to_json(self) -> str:
        """As JSON, with the version of the format."""
        histograms = {name: counts.tolist() for name, counts in self.histograms.items()}
        tree = {"format": FORMAT, "pixels": self.pixels.tolist(), "labels": self.labels.tolist()}
        return json.dumps({**tree, "histograms": histograms})

    @classmethod
    def from_json(cls, text: str) -> "DataProfile":
        """The inverse of `to_json`.

        Raises:
            DataError: Not such JSON, or of another format.
        """
        try:
            tree: dict[str, Any] = json.loads(text)
            if tree["format"] != FORMAT:
                raise DataError(f"data profile of format {tree['format']}; expected {FORMAT}; make the profile again")
            histograms = {name: _counts(tree["histograms"][name], (len(lim) + 1,)) for name, lim in LIMITS.items()}
            num_channels, num_classes = len(tree["pixels"]), len(tree["labels"])
            return cls(
                _counts(tree["pixels"], (num_channels, 256)), _counts(tree["labels"], (num_classes,)), histograms
            )
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"not a data profile ({type(error).__name__}: {error}); make the profile again") from None


def read_profile(path: Path, *, num_channels: int) -> DataProfile:
    """The profile in a file, of images with `num_channels` channels.

    Raises:
        DataError: No such file, not a profile, or one of images with other channels.
    """
    try:
        profile = DataProfile.from_json(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a profile.json, such as a model package holds") from None
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from None
    if len(profile.pixels) != num_channels:
        raise DataError(
            f"{path}: profile of {len(profile.pixels)} channels, and the images have {num_channels}; expected the "
            "profile of a model for such images"
        )
    return profile


def _counts(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    counts = np.array(values, np.int64)
    if counts.shape != shape or (counts < 0).any():
        raise ValueError(f"expected counts of shape {shape}, found {counts.shape}")
    return counts


def _moments(counts: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of values 0..255 with these counts, over 255; sums are exact, of any length."""
    n, total, squares = (sum(int(k) * value**power for value, k in enumerate(counts)) for power in (0, 1, 2))
    if n == 0:
        return float("nan"), float("nan")
    return total / (255 * n), ((n * squares - total**2) / n**2) ** 0.5 / 255


def _count(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(limits, values, side="right"), minlength=len(limits) + 1)
