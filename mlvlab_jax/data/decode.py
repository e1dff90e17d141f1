"""The one way from the bytes of an image file to pixels: training, evaluation, validation and serving call it.

Rules: the format is told by the first bytes, whatever the name says; JPEG, PNG, WebP, GIF and BMP are read, of
animations the first frame. The EXIF orientation is applied. Transparency is laid over white. 16-bit grey is rounded to
8 bits, 16-bit colour keeps its high bytes. Palette, bilevel and CMYK (YCCK) become RGB. Colour profiles are ignored. A
file that ends early is refused, never filled up with grey. One over the pixel cap is refused from its header.
"""

import io
import struct
import zlib
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.resize import choose_jpeg_size, resize_pixels

Reason = Literal["unreadable", "empty", "format", "too large", "corrupt"]

_JPEG_START = b"\xff\xd8\xff"
#: Second bytes of the markers that are followed by the length of their segment.
_JPEG_SEGMENTS = frozenset(bytes([k]) for k in (*range(0xC0, 0xD0), *range(0xDB, 0xFF)))
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (_JPEG_START, JpegImagePlugin.JpegImageFile),
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
    header, pixels = _load_jpeg(data, spec) or _load(data, spec)
    if spec.size is not None:
        pixels = resize_pixels(pixels, spec, size=_stored_size(spec.size, header))
    return header, _turn(pixels, header.orientation)


def read_header(data: bytes, spec: PreprocessSpec) -> Header:
    """Header of an image file, under the same rules as `decode_image`; no pixel is decoded.

    Raises:
        BadImageError: Not an image of a known format, over the pixel cap, or with a broken header.
    """
    return _open(data, spec.max_pixels)[1]


def fit_pixels(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """An image that is already decoded, uint8 (h, w, c), at the size and channels of `spec`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    fitted = _to_pixels(image.convert(_mode(spec)))
    return fitted if spec.size is None else resize_pixels(fitted, spec, size=spec.size)


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


def _load_jpeg(data: bytes, spec: PreprocessSpec) -> tuple[Header, np.ndarray] | None:
    """Header and pixels by libjpeg-turbo, at the smallest of its scales that will do; None: left to Pillow.

    Pillow is left CMYK, and what libjpeg warns about: it refuses files that end early and lets harmless oddities pass.
    """
    if not data.startswith(_JPEG_START):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, spec.max_pixels)
        if colorspace in ("CMYK", "YCCK"):
            return None
        header = _open(data, spec.max_pixels)[1] if _may_hold_exif(data) else Header("JPEG", width, height, 1)
        least = (0, 0)
        if spec.size is not None:
            least = choose_jpeg_size((height, width), spec, size=_stored_size(spec.size, header))
        wanted = "GRAY" if spec.channels == 1 else "RGB"
        return header, simplejpeg.decode_jpeg(data, wanted, min_height=least[0], min_width=least[1])
    except ValueError:
        return None


def _may_hold_exif(data: bytes) -> bool:
    """Whether a JPEG has a segment of EXIF or XMP before its pixels, or a header that is not plain to read.

    Only those are parsed by Pillow, which takes as long as reading the file.
    """
    at = len(_JPEG_START) - 1
    while data[at : at + 1] == b"\xff":
        kind = data[at + 1 : at + 2]
        if kind == b"\xda":
            return False
        if kind == b"\xe1" or kind not in _JPEG_SEGMENTS:
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def _load(data: bytes, spec: PreprocessSpec) -> tuple[Header, np.ndarray]:
    """Header and pixels by Pillow."""
    image, header = _open(data, spec.max_pixels)
    try:
        image.load()
    except _BROKEN as error:
        raise BadImageError("corrupt", f"{header.format} of {header.width} x {header.height}: {error}") from None
    return header, _to_pixels(_to_mode(image, _mode(spec)))


def _stored_size(size: tuple[int, int], header: Header) -> tuple[int, int]:
    """Height and width before the turn that makes `size` of it."""
    return (size[1], size[0]) if header.orientation >= 5 else size


def _mode(spec: PreprocessSpec) -> str:
    return "L" if spec.channels == 1 else "RGB"


def _to_pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, -1)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """8-bit RGB or grey of any mode Pillow loads."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB").convert(mode) if image.mode != mode else image


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as the camera was held."""
    transpose, up_down, left_right = _TURNS.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    pixels = pixels[::-1] if up_down else pixels
    return pixels[:, ::-1] if left_right else pixels
