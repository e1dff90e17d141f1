"""JSON from strangers: bounded in size and depth before it is parsed, no key twice, no NaN."""

import json
from typing import Any, NoReturn

import numpy as np

from mlvlab_jax.serving.replies import RefusedError

#: Parsing keeps Python's lock for its whole time, some 40 ms a MiB: the server answers nobody else meanwhile. Three
#: images of 224 x 224 fit; the binary tensor data extension is for more.
MAX_JSON_BYTES = 2 * 2**20
#: A nested tensor of images takes a depth of 7. A request has some ten objects; each costs as much as ten numbers.
_MAX_DEPTH, _MAX_OBJECTS = 32, 256
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_json(data: bytes) -> Any:
    """The document in `data`.

    Raises:
        RefusedError: Too large, too deep, too many objects, or not JSON in UTF-8 with each key once and finite numbers.
    """
    if len(data) > MAX_JSON_BYTES:
        raise RefusedError(413, "the JSON is too large; send tensors by the binary tensor data extension")
    if _bound_depth(data) > _MAX_DEPTH or data.count(b"{") > _MAX_OBJECTS:
        raise RefusedError(400, "the JSON is nested too deeply, or has too many objects")
    try:
        return json.loads(data.decode(), object_pairs_hook=_make_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # brackets within strings can hide a depth from the bound
        raise RefusedError(400, "the JSON is malformed, has a key twice or a number out of range") from None


def _bound_depth(data: bytes) -> int:
    """Depth of nesting, if no string holds a bracket."""
    brackets = np.frombuffer(data.translate(None, _NOT_BRACKETS), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.cumsum(np.where(opening, 1, -1), dtype=np.int64).max(initial=0))


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError
    return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
