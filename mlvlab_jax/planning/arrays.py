"""Sizes of arrays from the text of their types, as a compiled program writes them."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\](?:\{([\d,]*)(:[^}]*)?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")


class ArrayType(NamedTuple):
    """bytes: as it is. stored_bytes: with the padding of its tiles. on_chip: kept beside the arithmetic units, where a
    TPU's programs put what they will soon use again, and not in the device's main memory.
    """

    bytes: float
    stored_bytes: float
    on_chip: bool


def read_types(text: str) -> Iterator[ArrayType]:
    """The arrays in the text of a type: one, or those of a tuple."""
    for name, bits, dims, order, layout in _ARRAY.findall(text):
        size = 1 if name == "pred" else int(bits) / 8
        shape = [int(dim) for dim in dims.split(",") if dim]
        stored = _pad(shape, [int(dim) for dim in order.split(",") if dim], layout)
        yield ArrayType(math.prod(shape) * size, math.prod(stored) * size, "S(" in layout)


def _pad(shape: list[int], minor_to_major: list[int], layout: str) -> list[int]:
    tile = _TILE.search(layout)
    padded = list(shape)
    if tile:
        for dim, step in zip(minor_to_major, reversed([int(step) for step in tile[1].split(",")]), strict=False):
            padded[dim] = -(-padded[dim] // step) * step
    return padded
