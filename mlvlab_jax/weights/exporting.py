"""Our arrays under another library's names and in its layout: the tables of import, read the other way."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.files import write_atomic
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.files import write_safetensors
from mlvlab_jax.weights.maps import PEERS
from mlvlab_jax.weights.table import Peer, link, to_theirs

#: Formats that can be written: those of safetensors, and those of .npz.
SAFETENSORS, NPZ = ("timm", "transformers"), ("augreg", "big_vision")
FORMATS = (*SAFETENSORS, *NPZ)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays of ours by name, and of what network; `params` are those of the model plugin `model`."""

    model: str
    params: Any
    image: ImageSpec
    arrays: dict[str, np.ndarray] = dataclasses.field(repr=False)


class Exported(NamedTuple):
    """Arrays by the names of a library; notes: what the person should know, a line each."""

    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...]


def export_arrays(weights: Weights, format: str) -> Exported:  # noqa: A002 - as the option is called
    """The arrays as a library has them, by its names.

    Args:
        weights: Ours.
        format: One of `FORMATS`.

    Raises:
        ConfigError: That library has no such network, or no place for some arrays of it.
    """
    peers = [peer for peer in PEERS if peer.format == format and peer.model == weights.model]
    if not peers:
        able = sorted({peer.format for peer in PEERS if peer.model == weights.model}) or ["none"]
        raise ConfigError(
            f"--format {format}: has no {weights.model}; expected for this network one of: {', '.join(able)}"
        )
    refused: ConfigError | None = None
    for peer in peers:
        try:
            return _export(weights, peer)
        except ConfigError as error:
            refused = refused or error
    assert refused is not None, "a peer either exports or refuses"
    raise refused


def _export(weights: Weights, peer: Peer) -> Exported:
    links = link(peer, weights.params, image=weights.image, like=weights.arrays)
    named: Mapping[str, Any] = to_theirs(links, weights.arrays)
    arrays = {name: np.asarray(array, order="C") for name, array in named.items()}
    return Exported(arrays, tuple(peer.list_notes(weights.params)))


def check_output(path: Path, format: str) -> None:  # noqa: A002 - as the option is called
    """Refuses a file that cannot be written as `format`.

    Raises:
        ConfigError: It is there, or is called as another kind of file.
    """
    suffix = ".safetensors" if format in SAFETENSORS else ".npz"
    if path.suffix != suffix or path.exists():
        raise ConfigError(f"--output {path}: expected a new file that ends in {suffix}, as {format} has them")


def write_export(path: Path, arrays: Mapping[str, np.ndarray], format: str) -> None:  # noqa: A002 - as above
    """Writes `arrays` as the library reads them: whole or not at all.

    Raises:
        ConfigError: As of `check_output`.
    """
    check_output(path, format)
    if format in SAFETENSORS:
        # transformers looks for this entry before it reads a file.
        write_safetensors(path, arrays, metadata={"format": "pt"})
        return
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(buffer, **named)
    write_atomic(path, buffer.getvalue())
