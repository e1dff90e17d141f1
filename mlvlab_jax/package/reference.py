"""reference.safetensors: what held-out examples look like to a model, for production to be compared with."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlvlab_jax.data.statistics import describe_images
from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.arrays import read_arrays, read_metadata, write_arrays

#: Examples in a reference, and directions its embeddings are kept in.
MAX_EXAMPLES, MAX_DIRECTIONS = 5000, 32
_VALUES = "values/"
#: Where n, d and p are read from: array, its number of dims, dim.
_SIZES = (("prediction", 1, 0), ("projection", 2, 0), ("projection", 2, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Of n held-out examples.

    split: Of the data, that they are from. values: float32 (n), as of `measure_values`. prediction: int32 (n), the most
    likely class. label: int32 (n), the class. embedding: float32 (n p), `project`ed. center: float32 (d) and
    projection: float32 (d p), the mean and the principal directions of the embeddings as the network gives them.
    """

    split: str
    values: Mapping[str, np.ndarray]
    prediction: np.ndarray
    label: np.ndarray
    embedding: np.ndarray
    center: np.ndarray
    projection: np.ndarray

    def __len__(self) -> int:
        return len(self.prediction)

    def project(self, embedding: np.ndarray) -> np.ndarray:
        """Embeddings (b d) in the directions of the reference, float32 (b p)."""
        return _project(embedding, self.center, self.projection)


def make_reference(
    *, split: str, values: Mapping[str, np.ndarray], prediction: np.ndarray, label: np.ndarray, embedding: np.ndarray
) -> Reference:
    """The reference of these examples.

    Args:
        split: Of the data, that they are from.
        values: (n), as of `measure_values`.
        prediction: (n), the most likely class.
        label: (n), the class.
        embedding: (n d), as the network gives it.
    """
    center, projection = fit_projection(embedding)
    return Reference(
        split=split,
        values={name: np.asarray(value, np.float32) for name, value in values.items()},
        prediction=np.asarray(prediction, np.int32),
        label=np.asarray(label, np.int32),
        embedding=_project(embedding, center, projection),
        center=center,
        projection=projection,
    )


def list_values(num_channels: int) -> tuple[str, ...]:
    """Names of what is measured of every example of images with so many channels."""
    moments = [f"{moment}_{channel}" for moment in ("mean", "std") for channel in range(num_channels)]
    sizes = ("height_px", "width_px", "aspect")
    return ("brightness", "contrast", "sharpness", *moments, *sizes, "confidence", "entropy")


def measure_values(images: np.ndarray, *, sizes_px: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """What is measured of every example, here and in production, float32 (b) by name.

    Args:
        images: uint8 (b, h, w, c), the network's input.
        sizes_px: (b, 2), height and width of the images as stored.
        probabilities: (b, k), calibrated.

    Returns:
        The measures of `describe_images`; height_px, width_px and aspect (width over height) as stored; confidence, the
        largest probability, and entropy of the probabilities, in nats.
    """
    from scipy.special import entr

    height, width = sizes_px[:, 0], sizes_px[:, 1]
    outputs = {"confidence": probabilities.max(axis=1), "entropy": entr(probabilities).sum(axis=1)}
    sizes = {"height_px": height, "width_px": width, "aspect": width / height}
    return {name: np.asarray(v, np.float32) for name, v in {**describe_images(images), **sizes, **outputs}.items()}


def fit_projection(embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions of embeddings (n d), those without any variance left out.

    Returns:
        Their mean, float32 (d), and 1 to `MAX_DIRECTIONS` directions, float32 (d p), fewer than n where n > 1: the one
        of the largest variance first, the largest entry of each positive.

    References:
        H. Hotelling, "Analysis of a complex of statistical variables into principal components", 1933.
    """
    center = embedding.mean(axis=0, dtype=np.float64)
    _, spread, directions = np.linalg.svd(embedding - center, full_matrices=False)
    # Below this a direction is rounding, as the one that centring takes away.
    rounding = spread[0] * max(embedding.shape) * np.finfo(np.float32).eps
    directions = directions[: max(1, min(MAX_DIRECTIONS, int((spread > rounding).sum())))]
    largest = np.abs(directions).argmax(axis=1)[:, None]
    signs = np.sign(np.take_along_axis(directions, largest, axis=1))
    return center.astype(np.float32), (directions * signs).T.astype(np.float32)


def write_reference(path: Path, reference: Reference) -> None:
    """Writes `reference`; the same one gives the same bytes."""
    arrays = {_VALUES + name: value for name, value in reference.values.items()}
    arrays |= {name: getattr(reference, name) for name in ("prediction", "label", "embedding", "center", "projection")}
    write_arrays(path, arrays, metadata={"split": reference.split})


def read_reference(path: Path, *, num_classes: int, num_channels: int) -> Reference:
    """What `write_reference` wrote, for a model of so many classes and images of so many channels.

    Raises:
        PackageError: Not such a reference, or one with numbers that cannot be.
    """
    arrays = read_arrays(path)
    split = read_metadata(path).get("split", "")
    n, d, p = (
        arrays[name].shape[at] if name in arrays and arrays[name].ndim == ndim else 0 for name, ndim, at in _SIZES
    )
    expected = {
        **{_VALUES + name: ("float32", (n,)) for name in list_values(num_channels)},
        **dict.fromkeys(("prediction", "label"), ("int32", (n,))),
        "embedding": ("float32", (n, p)),
        "center": ("float32", (d,)),
        "projection": ("float32", (d, p)),
    }
    found = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    if found != expected or not (0 < n <= MAX_EXAMPLES and 0 < p <= MAX_DIRECTIONS and split):
        raise _refuse(path, f"holds {found} of split {split!r}; expected {expected} of a named split")
    for name in ("prediction", "label"):
        if not (arrays[name].min() >= 0 and arrays[name].max() < num_classes):
            raise _refuse(path, f"{name} is {arrays[name].min()}..{arrays[name].max()}; expected 0..{num_classes - 1}")
    if infinite := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise _refuse(path, f"{sorted(infinite)} are not finite; expected numbers")
    values = {name: arrays.pop(_VALUES + name) for name in list_values(num_channels)}
    return Reference(split=split, values=values, **arrays)


def _project(embedding: np.ndarray, center: np.ndarray, projection: np.ndarray) -> np.ndarray:
    return ((embedding - center.astype(np.float64)) @ projection).astype(np.float32)


def _refuse(path: Path, what: str) -> PackageError:
    return PackageError(f"{path}: {what}; fetch the package again, or package the run again")
