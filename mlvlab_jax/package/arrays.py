"""Arrays in safetensors files: names, types, shapes and bytes, and no way to hold anything else."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mlvlab_jax.errors import PackageError
from mlvlab_jax.files import write_atomic

#: A thousand layers name their arrays in a fiftieth of this.
_MAX_HEADER_BYTES = 8 * 2**20


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes `arrays`, and a text about them; the same ones give the same bytes.

    Args:
        path: Of the file.
        arrays: By name.
        metadata: One entry at most: safetensors writes several in any order.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    write_atomic(path, safetensors.numpy.save(tensors, metadata=dict(metadata or {}) or None))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote, by name.

    Raises:
        PackageError: Not a safetensors file.
    """
    check_header(path)
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _refuse(path, str(error)) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The text that `write_arrays` wrote with the arrays.

    Raises:
        PackageError: Not a safetensors file.
    """
    check_header(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def check_header(path: Path) -> None:
    """Refuses a file that is not safetensors, or one whose header is over 8 MiB; the arrays are not read.

    Raises:
        PackageError: Says what is wrong with it.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(_MAX_HEADER_BYTES, num_bytes - 8):
        raise _refuse(path, f"it states a header of {length} bytes, the file has {num_bytes}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            file.keys()
    except (safetensors.SafetensorError, ValueError) as error:
        raise _refuse(path, str(error)) from None


def check_weights(weights: Mapping[str, Any], expected: Mapping[str, Any], *, place: str) -> None:
    """Refuses weights of other names, shapes or types than the network takes.

    Raises:
        PackageError: Names `place` and the first difference.
    """
    for name in sorted(weights.keys() | expected.keys()):
        found, wanted = (_describe(tree.get(name)) for tree in (weights, expected))
        if found != wanted:
            raise PackageError(
                f"{place}: {name} is {found}; the network takes {wanted}; weights and network are not of one model: "
                "fetch the package again"
            )


def _describe(array: Any) -> str:
    return "absent" if array is None else f"{array.dtype} {tuple(array.shape)}"


def _refuse(path: Path, what: str) -> PackageError:
    return PackageError(
        f"{path}: not a safetensors file as a package holds it ({what}); expected a header of at most "
        f"{_MAX_HEADER_BYTES} bytes and the arrays it names; fetch the package again"
    )
