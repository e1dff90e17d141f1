"""Decoded pixels brought to one size, by Pillow or by OpenCV."""

import functools
import math
from types import ModuleType

import numpy as np
from PIL import Image

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.errors import ConfigError

_PILLOW_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
#: Of a decoded JPEG to its file: those libjpeg-turbo reduces to by vector instructions. The other eighths take longer.
_FAST_REDUCTIONS = (8, 4, 2, 1)


def check_filter(spec: PreprocessSpec) -> None:
    """Makes sure that what resizes is installed, before anything is read.

    Raises:
        ConfigError: OpenCV is not there, or cannot be imported.
    """
    if spec.filter == "opencv_linear":
        _opencv()


@functools.cache
def _opencv() -> ModuleType:
    """OpenCV, without threads of its own: the readers already take a core each."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"'opencv_linear' needs OpenCV ({error}); expected any of its Python packages: pip install "
            '"mlvlab_jax[opencv]"; or write bilinear, which gives other pixels',
            path="pipeline.preprocess.filter",
        ) from None
    cv2.setNumThreads(0)
    return cv2


def resize_pixels(pixels: np.ndarray, spec: PreprocessSpec, *, size: tuple[int, int]) -> np.ndarray:
    """An image at another size.

    Args:
        pixels: uint8 (h, w, c), c 1 or 3.
        spec: How; its size is not looked at.
        size: Height and width in pixels, of the image as it is stored.

    Returns:
        uint8 (*size, c).
    """
    height, width = pixels.shape[:2]
    if spec.resize == "pad":
        scale = min(size[0] / height, size[1] / width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        canvas = np.zeros((*size, pixels.shape[2]), np.uint8)
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        canvas[top : top + inner[0], left : left + inner[1]] = _scale(pixels, spec, inner, margins=(0.0, 0.0))
        return canvas
    if size == (height, width):
        return pixels
    if spec.resize == "stretch":
        return _scale(pixels, spec, size, margins=(0.0, 0.0))
    scale = max(size[0] / height, size[1] / width)
    over = max((height - size[0] / scale) / 2, 0.0), max((width - size[1] / scale) / 2, 0.0)
    return _scale(pixels, spec, size, margins=over)


def _scale(
    pixels: np.ndarray, spec: PreprocessSpec, size: tuple[int, int], *, margins: tuple[float, float]
) -> np.ndarray:
    """Pixels without `margins` above and below, left and right, at `size`."""
    if spec.filter == "opencv_linear":
        return _scale_by_opencv(pixels, size, margins)
    (height, width, channels), (above, beside) = pixels.shape, margins
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    box = (beside, above, width - beside, height - above)
    return np.asarray(image.resize(size[::-1], _PILLOW_FILTERS[spec.filter], box=box)).reshape(*size, channels)


def _scale_by_opencv(pixels: np.ndarray, size: tuple[int, int], margins: tuple[float, float]) -> np.ndarray:
    """Margins in whole pixels; equal on both sides, so that an image turned or mirrored loses the same."""
    cv2 = _opencv()
    height, width, channels = pixels.shape
    above, beside = min(round(margins[0]), (height - 1) // 2), min(round(margins[1]), (width - 1) // 2)
    kept = pixels[above : height - above, beside : width - beside]
    reduction = max(kept.shape[0] / size[0], kept.shape[1] / size[1])
    method = cv2.INTER_AREA if reduction >= 2 else cv2.INTER_LINEAR
    return cv2.resize(kept, size[::-1], interpolation=method).reshape(*size, channels)


def choose_jpeg_size(shape: tuple[int, int], spec: PreprocessSpec, *, size: tuple[int, int]) -> tuple[int, int]:
    """Least height and width at which to decode a JPEG that is then resized.

    Args:
        shape: Height and width in the file.
        spec: How it will be resized; its size is not looked at.
        size: Height and width to be made of it.

    Returns:
        Height and width of what libjpeg may still reduce to.
    """
    height, width = shape
    vertical, horizontal = size[0] / height, size[1] / width
    if spec.resize != "stretch":
        vertical = horizontal = max(vertical, horizontal) if spec.resize == "crop" else min(vertical, horizontal)
    least = (
        math.ceil(height * min(vertical / spec.max_jpeg_enlargement, 1)),
        math.ceil(width * min(horizontal / spec.max_jpeg_enlargement, 1)),
    )
    if spec.filter != "opencv_linear":
        return least
    reduced = ((math.ceil(height / by), math.ceil(width / by)) for by in _FAST_REDUCTIONS)
    return next(shape for shape in reduced if shape[0] >= least[0] and shape[1] >= least[1])
