"""What a packed record holds: the bytes of an image file, perhaps reduced, or raw pixels."""

import dataclasses
import io
from typing import NamedTuple, Protocol

import numpy as np
import simplejpeg
from PIL import Image

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import BadImageError, Header, decode_image, read_header
from mlvlab_jax.data.source import Records, Source

#: Of reduced JPEGs, with colour at half the resolution, as cameras write them: hardly to be told from the original.
_JPEG_QUALITY = 95
#: Files are checked by decoding them at least this small, which costs little for JPEG.
_CHECK_SIZE = (32, 32)


class Row(NamedTuple):
    """One example: its index in the source, label, record, size in pixels as seen; or why it could not be read."""

    id: int
    label: int
    data: bytes = b""
    width: int = 0
    height: int = 0
    problem: str = ""


class Encoder(Protocol):
    """Random access to the records to be written for one split."""

    def __len__(self) -> int:
        """Number of examples."""

    def name(self, index: int) -> str:
        """As of `Source`."""

    def encode(self, ids: np.ndarray) -> list[Row]:
        """Rows of the examples at `ids`, int (b). Safe to call from several threads."""


class FileEncoder:
    """Image files as they are, each decoded once to see that it can be; or reduced.

    Args:
        records: The files.
        preprocess: Pixel cap, channels and filter of reduced images.
        max_side: Pixels the longer side is reduced to; a file within it is kept as it is.
    """

    def __init__(self, records: Records, preprocess: PreprocessSpec, *, max_side: int | None) -> None:
        self._records = records
        self._preprocess = preprocess
        self._max_side = max_side

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        """The file's own name."""
        return self._records.name(index)

    def encode(self, ids: np.ndarray) -> list[Row]:
        """Reads one file after the other, so that no more than one large original is held."""
        return [self._encode(index) for index in ids.tolist()]

    def _encode(self, index: int) -> Row:
        record = self._records.read(np.array([index]))[0]
        try:
            if record.problem:
                raise BadImageError("unreadable", record.problem)
            header = read_header(record.data, self._preprocess)
            height, width = header.height, header.width
            if header.orientation >= 5:
                height, width = width, height
            longest = max(height, width)
            if self._max_side is None or longest <= self._max_side:
                decode_image(record.data, dataclasses.replace(self._preprocess, size=_CHECK_SIZE, channels=3))
                return Row(index, record.label, record.data, width, height)
            height, width = (max(1, round(side * self._max_side / longest)) for side in (height, width))
            data = _reduce(record.data, header, dataclasses.replace(self._preprocess, size=(height, width)))
            return Row(index, record.label, data, width, height)
        except BadImageError as error:
            return Row(index, record.label, problem=f"{error.reason}: {error}")


def _reduce(data: bytes, header: Header, preprocess: PreprocessSpec) -> bytes:
    """The image at exactly `preprocess.size`, as JPEG, or as PNG where nothing was lost in it so far."""
    preprocess = dataclasses.replace(preprocess, resize="stretch", max_jpeg_enlargement=1.0)  # training enlarges anew
    pixels = np.ascontiguousarray(decode_image(data, preprocess))
    if header.format == "JPEG" or (header.format == "WEBP" and data[12:16] == b"VP8 "):
        colors = ("GRAY", "Gray") if pixels.shape[-1] == 1 else ("RGB", "420")
        return simplejpeg.encode_jpeg(pixels, _JPEG_QUALITY, *colors)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


class PixelEncoder:
    """Pixels, uint8, row by row."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        """The source's own name."""
        return self._source.name(index)

    def encode(self, ids: np.ndarray) -> list[Row]:
        """The pixels of the examples at `ids`."""
        image, label, bad = self._source.fetch(ids)
        height, width, _ = self._source.spec
        return [
            Row(index, int(label[at]), problem=bad[at])
            if at in bad
            else Row(index, int(label[at]), image[at].tobytes(), width, height)
            for at, index in enumerate(ids.tolist())
        ]
