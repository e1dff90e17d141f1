"""The binary tensor data extension of the Open Inference Protocol: raw tensors after the JSON of a body.

`Inference-Header-Content-Length` says how long the JSON is, `binary_data_size` of each tensor how long its bytes are;
they follow in the order of the tensors, little endian, row by row. A string is its length in 4 bytes and its UTF-8.
"""

import struct
from collections.abc import Sequence

import numpy as np

from mlvlab_jax.serving.replies import RefusedError

HEADER_LENGTH = "Inference-Header-Content-Length"


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a body and the bytes after it.

    Args:
        body: Of the request.
        header_length: Value of the header of that name; None: the body is nothing but JSON.

    Raises:
        RefusedError: The length is not a number, or more than there is.
    """
    if header_length is None:
        return body, memoryview(b"")
    plain = header_length.isascii() and header_length.isdigit() and len(header_length) <= len(str(len(body)))
    if not plain or int(header_length) > len(body):
        raise RefusedError(400, f"{HEADER_LENGTH} must be the number of bytes of the JSON, within the body")
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def encode_tensor(values: np.ndarray | Sequence[str]) -> bytes:
    """The bytes of a tensor: of float32 numbers, or of strings."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values, "<f4").tobytes()
    encoded = [value.encode("utf-8", "replace") for value in values]
    return b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))
