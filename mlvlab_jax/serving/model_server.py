"""A model package behind one function: from an image to its class. Made to be subclassed, and complete as it is."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlvlab_jax.data.decode import BadImageError, fit_pixels
from mlvlab_jax.registry.file_store import DEFAULT_ROOT
from mlvlab_jax.registry.model_registry import ModelRegistry, open_store
from mlvlab_jax.registry.names import parse_reference
from mlvlab_jax.serving.errors import InputError, PredictionError
from mlvlab_jax.serving.predictor import Outputs, Predictor

if TYPE_CHECKING:
    import jax

#: Pixels, uint8 (h w c) of any size with 1 or 3 channels; the bytes of an image file; or where the file is.
AnyImage: TypeAlias = np.ndarray | bytes | Path


class ModelServer:
    """Answers one image at a time.

    A subclass may replace each method; its own `__init__` needs no more than the three lines of this one.

    Args:
        model_path: Model package, a folder or a tar; or NAME:VERSION or NAME@ALIAS of the model registry.

    Attributes:
        model: From images, uint8 (b h w c), to `Outputs`.
        transforms: From any image to the network's input, uint8 (1 h w c).
        device: Where the model runs.
        logger: Told of images that could not be answered.
    """

    logger = logging.getLogger(__name__)
    #: Classes in an answer's "top".
    top_k = 5

    def __init__(self, model_path: str | Path) -> None:
        self.model = self.load_model(model_path)
        self.transforms = self.setup_transforms()
        self.device = self.setup_device()

    def load_model(self, model_path: str | Path, *, registry: str = str(DEFAULT_ROOT)) -> Predictor:
        """Opens the package, checks it, and compiles its network for single images.

        Args:
            model_path: As of the class; what exists as a file or folder is taken as such.
            registry: Folder of the registry, or the address of an MLflow server or database.

        Raises:
            PackageError: There is no such package, or it is not whole.
            RegistryError: There is no such model, version or alias.
        """
        if Path(model_path).exists() or not any(mark in str(model_path) for mark in ":@"):
            return Predictor.open(model_path, max_batch=1)
        name, version, alias = parse_reference(str(model_path))
        models = ModelRegistry(open_store(registry))
        record = models.verify(name, version or str(alias))
        folder = models.open_package(name, record.version)
        return Predictor.open(folder, max_batch=1, name=name, version=record.version)

    def setup_transforms(self) -> Callable[[AnyImage], np.ndarray]:
        """The package's own preprocessing: that of training."""
        model, spec = self.model, self.model.package.preprocess

        def transform(image: AnyImage) -> np.ndarray:
            if isinstance(image, np.ndarray):
                return fit_pixels(_check_pixels(image), spec)[None]
            data, place = _read(image)
            try:
                return model.decode(data)[1][None]
            except BadImageError as error:
                raise InputError(f"{place}: {error.describe()}") from None

        return transform

    def setup_device(self) -> "jax.Device":
        """The device the model runs on."""
        import jax

        return jax.devices()[0]

    def preprocess(self, image: AnyImage) -> np.ndarray:
        """The network's input, uint8 (1 h w c).

        Raises:
            InputError: Not an image, or one that cannot be read.
        """
        return self.transforms(image)

    def predict(self, image: AnyImage) -> dict[str, Any]:
        """What the image shows.

        Args:
            image: Pixels, uint8 (h w c) of any size with 1 or 3 channels; the bytes of an image file; or its path.

        Returns:
            label, the most probable class; confidence, its probability, calibrated; top, pairs of class and
            probability, the most probable first; probabilities, float32 (k), in the order of `model.class_names`.

        Raises:
            InputError: Not an image, or one that cannot be read.
            PredictionError: The network's output is not finite.
        """
        try:
            return self.postprocess(self.model(self.preprocess(image)))
        except Exception as error:
            self.logger.error("prediction failed: %s", error)
            raise

    def postprocess(self, output: Outputs) -> dict[str, Any]:
        """The answer of `predict` for the first image of `output`.

        Raises:
            PredictionError: The network's output is not finite.
        """
        probabilities = output.probabilities[0]
        if np.isnan(probabilities[0]):
            raise PredictionError(0)
        top = self.model.top(probabilities, self.top_k)
        return {"label": top[0][0], "confidence": top[0][1], "top": top, "probabilities": probabilities}


def _check_pixels(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise InputError(f"image is {image.dtype} {image.shape}; expected uint8 (h, w, c), c 1 or 3")
    return image


def _read(image: bytes | Path) -> tuple[bytes, str]:
    """Bytes of a file, and what to call it."""
    if isinstance(image, bytes):
        return image, "image"
    if not isinstance(image, Path):
        raise InputError(f"image is a {type(image).__name__}; expected pixels, the bytes of an image file, or its Path")
    try:
        return image.read_bytes(), str(image)
    except OSError as error:
        raise InputError(f"{image}: {error.strerror}; expected an image file; check the path") from None
