"""A package made ready to answer: one program for each size of batch, compiled before the first request."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.package.load import Package, calibrate, load_package
from mlvlab_jax.serving.errors import InputError
from mlvlab_jax.types import ImageSpec

if TYPE_CHECKING:
    from mlvlab_jax.data.decode import Header


class Outputs(NamedTuple):
    """Answers to b images; where a logit is not finite, the whole row of probabilities is NaN.

    logits: float32 (b k). probabilities: float32 (b k), calibrated. embedding: float32 (b d), what the classifier's
    last layer was given.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    embedding: np.ndarray


class Predictor:
    """A package that answers batches of any size, without compiling anything any more.

    Args:
        package: The model.
        max_batch: Largest batch of one program; there is one for each of 1, 2, 4, ... and this. Each is compiled and
            run once here.
        name: What the model is called; that of the package if None.
        version: What its version is called; the first 12 characters of the package's digest if None.

    Raises:
        ConfigError: `max_batch` is below 1.
    """

    def __init__(
        self, package: Package, *, max_batch: int = 32, name: str | None = None, version: str | None = None
    ) -> None:
        if max_batch < 1:
            raise ConfigError(f"max_batch is {max_batch}; expected 1 or more")
        self.package = package
        self.name = name or package.name
        self.version = version or package.manifest.sha256[:12]
        self._programs = {size: _warm_up(package, size) for size in make_buckets(max_batch)}
        self._max_batch = max_batch

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        max_batch: int = 32,
        compile_cache: bool = True,
        name: str | None = None,
        version: str | None = None,
    ) -> "Predictor":
        """Opens the package at `path`, a folder or a tar; its files and its golden outputs are checked.

        Args:
            path: Of the package.
            max_batch: As of the class.
            compile_cache: Keep compiled programs in the user's private folder, so that the next start is fast.
            name: As of the class.
            version: As of the class.

        Raises:
            PackageError: The package is not whole, was altered, or does not give the outputs it was made with.
            ConfigError: `max_batch` is below 1, or others can write to the folder of compiled programs.
        """
        if compile_cache:
            from mlvlab_jax.engine.compile_cache import compile_cache_folder, enable_compile_cache

            enable_compile_cache(compile_cache_folder())
        return cls(load_package(Path(path)), max_batch=max_batch, name=name, version=version)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the outputs, in their order."""
        return self.package.class_names

    @property
    def image(self) -> ImageSpec:
        """Shape of the images the network takes."""
        return self.package.image

    def decode(self, data: bytes) -> "tuple[Header, np.ndarray]":
        """What an image file says of itself, and its pixels as the network takes them, uint8 (h w c).

        Raises:
            BadImageError: Not an image of a known format, over the pixel cap, or broken.
        """
        return self.package.inspect_bytes(data)

    def check(self, images: np.ndarray) -> None:
        """Refuses what the network does not take.

        Raises:
            InputError: Not uint8 (b h w c) of the network's size, or no image at all.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.image or len(images) == 0:
            raise InputError(
                f"images are {images.dtype} {images.shape}; expected uint8 (b, {', '.join(map(str, self.image))}), "
                "b >= 1"
            )

    def predict(self, images: np.ndarray) -> Outputs:
        """Answers to images, uint8 (b h w c) of the network's size, b >= 1; no answer depends on its neighbours.

        Raises:
            InputError: Images of another type or shape, or none.
        """
        images = np.asarray(images)
        self.check(images)
        parts = [self._run(images[at : at + self._max_batch]) for at in range(0, len(images), self._max_batch)]
        logits, embedding = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return Outputs(logits, _calibrate(logits, self.package.temperature), embedding)

    __call__ = predict

    def top(self, probabilities: np.ndarray, k: int) -> list[tuple[str, float]]:
        """The k most probable classes of one image, probabilities (k), the most probable first."""
        order = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.class_names[i], float(probabilities[i])) for i in order]

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embedding of at most `max_batch` images, by the smallest program that holds them."""
        num = len(images)
        size = next(size for size in self._programs if size >= num)
        if size > num:
            images = np.concatenate([images, np.zeros((size - num, *self.image), np.uint8)])
        logits, embedding = self._programs[size](np.ascontiguousarray(images))
        return logits[:num], embedding[:num]


def make_buckets(max_batch: int) -> list[int]:
    """Sizes of batch that get a program: 1, 2, 4, ... and `max_batch` itself, in this order."""
    return [*_powers_below(max_batch), max_batch]


def _powers_below(limit: int) -> Iterator[int]:
    size = 1
    while size < limit:
        yield size
        size *= 2


def _warm_up(package: Package, size: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The program for `size` images, run once: what the device allocates at the first call is there afterwards."""
    program = package.compile(size)
    program(np.zeros((size, *package.image), np.uint8))
    return program


def _calibrate(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, float32 (b k); rows with a logit that is not finite become NaN."""
    finite = np.isfinite(logits).all(axis=1, keepdims=True)
    probabilities = calibrate(np.where(finite, logits, np.float32(0)), temperature=temperature)
    return np.where(finite, probabilities, np.float32(np.nan))
