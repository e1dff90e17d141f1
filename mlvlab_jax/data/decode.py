"""The one way from the bytes of an image file to pixels: training, evaluation, validation and serving call it.

Rules: the format is told by the first bytes, whatever the name says; JPEG, PNG, WebP, GIF and BMP are read, of
animations the first frame. The EXIF orientation is applied. Transparency is laid over white. 16-bit grey is rounded to
8 bits, 16-bit colour keeps its high bytes. Palette, bilevel and CMYK (YCCK) become RGB. Colour profiles are ignored. A
file that ends early is refused, never filled up with grey. One over the pixel cap is refused from its header.
"""

import io
import math
import struct
import zlib
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from mlvlab_jax.config.schema import PreprocessSpec

Reason = Literal["unreadable", "empty", "format", "too large", "corrupt"]

_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
)
#: What Pillow's readers raise on bytes they cannot make sense of.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError, RuntimeError),
    *(AttributeError, struct.error, zlib.error, Image.DecompressionBombError),
)
_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION_TAG = 0x0112
#: EXIF orientation -> (transpose, flip up-down, flip left-right), in this order.
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class BadImageError(Exception):
    """The bytes are not an image this project reads; `reason` is one of a fixed list, the message says more."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def describe(self) -> str:
        """'reason: message', as it is written into a quarantine."""
        return f"{self.reason}: {self}"


class Header(NamedTuple):
    """What a file says of itself: format ("JPEG"), stored width and height in pixels, EXIF orientation 1 to 8."""

    format: str
    width: int
    height: int
    orientation: int


def decode_image(data: bytes, spec: PreprocessSpec) -> np.ndarray:
    """Pixels of an image file.

    Args:
        data: The whole file.
        spec: What to make of it; without a size the image keeps its own.

    Returns:
        uint8 (h, w, c).

    Raises:
        BadImageError: Not an image of a known format, over the pixel cap, or broken.
    """
    return inspect_image(data, spec)[1]


def inspect_image(data: bytes, spec: PreprocessSpec) -> tuple[Header, np.ndarray]:
    """Header and pixels of an image file; all else as of `decode_image`."""
    image, header = _open(data, spec.max_pixels)
    target = spec.size
    if target is not None and header.orientation >= 5:
        target = (target[1], target[0])
    mode = "L" if spec.channels == 1 else "RGB"
    pixels = _load_jpeg(data, header, mode, target, spec) if header.format == "JPEG" else None
    if pixels is None:
        try:
            image.load()
        except _BROKEN as error:
            raise BadImageError("corrupt", f"{header.format} of {header.width} x {header.height}: {error}") from None
    decoded = _to_mode(image, mode) if pixels is None else Image.fromarray(pixels)
    if target is not None:
        decoded = _resize(decoded, target, spec)
    return header, _turn(np.asarray(decoded).reshape(*decoded.size[::-1], len(mode)), header.orientation)


def read_header(data: bytes, spec: PreprocessSpec) -> Header:
    """Header of an image file, under the same rules as `decode_image`; no pixel is decoded.

    Raises:
        BadImageError: Not an image of a known format, over the pixel cap, or with a broken header.
    """
    return _open(data, spec.max_pixels)[1]


def fit_pixels(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """An image that is already decoded, uint8 (h, w, c), at the size and channels of `spec`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image = image.convert("L" if spec.channels == 1 else "RGB")
    image = image if spec.size is None else _resize(image, spec.size, spec)
    return np.asarray(image).reshape(*image.size[::-1], -1)


def _open(data: bytes, max_pixels: int) -> tuple[ImageFile.ImageFile, Header]:
    """The file opened by the reader its first bytes name; only the header is parsed, and held against the pixel cap."""
    if not data:
        raise BadImageError("empty", "the file has no bytes")
    reader = next((reader for magic, reader in _READERS if data.startswith(magic)), None)
    if reader is None or (data.startswith(b"RIFF") and data[8:12] != b"WEBP"):
        raise BadImageError("format", f"starts with {data[:8]!r}; expected JPEG, PNG, WebP, GIF or BMP")
    if reader is WebPImagePlugin.WebPImageFile:
        _check_size(*_read_webp_size(data), max_pixels)  # the reader itself allocates the whole canvas
    try:
        image = reader(io.BytesIO(data))
    except _BROKEN as error:
        raise BadImageError("corrupt", f"{reader.format} with a broken header: {error}") from None
    width, height = image.size
    _check_size(width, height, max_pixels)
    return image, Header(str(image.format), width, height, _read_orientation(image, data))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImageError(
            "too large", f"{width} x {height} pixels; expected at most {max_pixels} (preprocess.max_pixels)"
        )
    if width == 0 or height == 0:
        raise BadImageError("corrupt", f"{width} x {height} pixels")


def _read_webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas, from the first chunk after the RIFF header."""
    kind, head = data[12:16], data[20:30]
    if kind == b"VP8X" and len(head) == 10:
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L" and len(head) >= 5:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(head) == 10:
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    raise BadImageError("corrupt", f"WEBP with a broken header: its first chunk is {kind!r}")


def _read_orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        image.info["exif"] = _find_png_exif(data)  # else Pillow decodes the pixels to see what comes after them
    try:
        orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _BROKEN:
        return 1  # unreadable EXIF says nothing about the pixels
    return orientation if orientation in _TURNS else 1


def _find_png_exif(data: bytes) -> bytes | None:
    start = 8
    while (kind := data[start + 4 : start + 8]) not in (b"", b"IEND"):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if kind == b"eXIf":
            return data[start + 8 : end]
        start = end + 4
    return None


def _load_jpeg(
    data: bytes, header: Header, mode: str, target: tuple[int, int] | None, spec: PreprocessSpec
) -> np.ndarray | None:
    """Pixels by libjpeg-turbo, at the smallest of its scales that still reduces to the target; None: left to Pillow.

    Pillow is left CMYK, and what libjpeg warns about: it refuses files that end early and lets harmless oddities pass.
    """
    least_height, least_width = _least_size(header, target, spec)
    try:
        _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK"):
            return None
        wanted = "GRAY" if mode == "L" else "RGB"
        pixels = simplejpeg.decode_jpeg(data, wanted, min_height=least_height, min_width=least_width)
        return pixels[..., 0] if mode == "L" else pixels
    except ValueError:
        return None


def _least_size(header: Header, target: tuple[int, int] | None, spec: PreprocessSpec) -> tuple[int, int]:
    """Height and width below which a decoded image would have to be enlarged to make the target; 0: any."""
    if target is None:
        return 0, 0
    vertical, horizontal = target[0] / header.height, target[1] / header.width
    if spec.resize != "stretch":
        vertical = horizontal = max(vertical, horizontal) if spec.resize == "crop" else min(vertical, horizontal)
    return math.ceil(header.height * min(vertical, 1)), math.ceil(header.width * min(horizontal, 1))


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """8-bit RGB or grey of any mode Pillow loads."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB").convert(mode) if image.mode != mode else image


def _resize(image: Image.Image, target: tuple[int, int], spec: PreprocessSpec) -> Image.Image:
    height, width = target
    method = _FILTERS[spec.filter]
    if spec.resize == "pad":
        scale = min(height / image.height, width / image.width)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        canvas = Image.new(image.mode, (width, height))
        canvas.paste(image.resize(inner, method), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return canvas
    box = (0.0, 0.0, float(image.width), float(image.height))
    if spec.resize == "crop":
        scale = max(height / image.height, width / image.width)
        left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
        box = (max(left, 0.0), max(top, 0.0), image.width - max(left, 0.0), image.height - max(top, 0.0))
    if image.size == (width, height):
        return image
    return image.resize((width, height), method, box=box)


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as the camera was held."""
    transpose, up_down, left_right = _TURNS.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    pixels = pixels[::-1] if up_down else pixels
    return pixels[:, ::-1] if left_right else pixels
