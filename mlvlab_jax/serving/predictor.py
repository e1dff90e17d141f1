"""A package made ready to answer: one program for each size of batch, compiled before the first request."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.package.load import Package, calibrate, load_package
from mlvlab_jax.serving.errors import InputError
from mlvlab_jax.types import ImageSpec

if TYPE_CHECKING:
    from mlvlab_jax.data.decode import Header


#: Seconds for which each program is run at the start, once at least.
_WARM_UP_S = 0.05
#: A batch is run as a whole unless cutting it up takes less than this share of the time: what was measured is noisy.
_WORTH_CUTTING = 0.9


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

    A batch between two programs is filled up for the larger one, or cut up for smaller ones where that was clearly
    faster when the programs were run for the first time: without an accelerator, time grows with the images.

    Args:
        package: The model.
        max_batch: Largest batch of one program; there is one for each of 1, 2, 4, ... and this. Each is compiled and
            run here.
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
        self._programs = {size: package.compile(size) for size in make_buckets(max_batch)}
        self._plans = plan_batches({size: self._warm_up(size) for size in self._programs})
        self.predict(np.zeros((1, *self.image), np.uint8))  # what is imported at the first answer is there afterwards

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
        parts, at = [], 0
        while at < len(images):
            num = min(len(images) - at, len(self._plans) - 1)
            parts.append(self._run(images[at : at + num], self._plans[num]))
            at += len(parts[-1][0])
        logits, embedding = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return Outputs(logits, _calibrate(logits, self.package.temperature), embedding)

    __call__ = predict

    def top(self, probabilities: np.ndarray, k: int) -> list[tuple[str, float]]:
        """The k most probable classes of one image, probabilities (k), the most probable first."""
        order = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.class_names[i], float(probabilities[i])) for i in order]

    def _run(self, images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embedding of the first images, as many as the program for `size` takes, or all."""
        images = images[:size]
        num = len(images)
        if size > num:
            images = np.concatenate([images, np.zeros((size - num, *self.image), np.uint8)])
        logits, embedding = self._programs[size](np.ascontiguousarray(images))
        return logits[:num], embedding[:num]

    def _warm_up(self, size: int) -> float:
        """Seconds the program for `size` images takes: the least of some runs, of a single one if it is slow."""
        images, least, spent = np.zeros((size, *self.image), np.uint8), float("inf"), 0.0
        while spent < _WARM_UP_S:
            started = time.perf_counter()
            self._programs[size](images)
            seconds = time.perf_counter() - started
            least, spent = min(least, seconds), spent + seconds
        return least


def make_buckets(max_batch: int) -> list[int]:
    """Sizes of batch that get a program: 1, 2, 4, ... and `max_batch` itself, in this order."""
    return [*(2**k for k in range((max_batch - 1).bit_length())), max_batch]


def plan_batches(seconds: Mapping[int, float]) -> list[int]:
    """Which program to run first for 0, 1, 2, ... images, so that all of them are answered soonest.

    Args:
        seconds: What each program takes, by its size. The largest one bounds the number of images.
    """
    sizes = sorted(seconds)
    plans, total = [0], [0.0]
    for num in range(1, sizes[-1] + 1):
        whole = next(size for size in sizes if size >= num)
        costs = {size: seconds[size] + total[max(0, num - size)] for size in sizes if size <= whole}
        best = min(costs, key=costs.__getitem__)
        plans.append(best if costs[best] < _WORTH_CUTTING * costs[whole] else whole)
        total.append(costs[plans[-1]])
    return plans


def _calibrate(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, float32 (b k); rows with a logit that is not finite become NaN."""
    finite = np.isfinite(logits).all(axis=1, keepdims=True)
    probabilities = calibrate(np.where(finite, logits, np.float32(0)), temperature=temperature)
    return np.where(finite, probabilities, np.float32(np.nan))
