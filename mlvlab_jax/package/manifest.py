"""manifest.json: what a package is made of, byte for byte, and where it comes from."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mlvlab_jax.config.fields import configclass, dump_params
from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.documents import parse, read_document, render
from mlvlab_jax.package.members import MANIFEST

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


@configclass
class FileRecord:
    """One file of a package."""

    sha256: Sha256
    """Of its bytes."""
    bytes: Annotated[int, Field(ge=0)]
    """Its length."""


@configclass
class RunRecord:
    """The run the weights come from."""

    config_hash: Sha256
    """Of the part of the configuration that decides the result."""
    step: Annotated[int, Field(ge=0)]
    """Updates the weights have had."""
    git: dict[str, Any] | None
    """Commit the code was at, and whether it had changes; null outside of a repository."""
    seed: int
    """The run's seed."""


@configclass
class ModelRecord:
    """The network."""

    name: str
    """Of the model plugin."""
    num_params: Annotated[int, Field(ge=0)]
    """Trained numbers."""


@configclass
class Manifest:
    """manifest.json, of schema 1: what a package is made of and where it comes from."""

    schema: Literal[1] = 1
    """Version of this format."""
    name: Annotated[str, Field(pattern=_NAME)]
    """What people call the model."""
    created: str
    """When the checkpoint was saved, ISO 8601 in UTC: packing the same one again gives the same bytes."""
    files: dict[str, FileRecord]
    """Each file but this one, by its path in the package."""
    data: dict[str, Any]
    """Identity of the data the model was trained on."""
    data_version: list[dict[str, Any]]
    """What DVC recorded of these data."""
    metrics: dict[str, float | None]
    """Measured values, 'test/accuracy': 0.99; null where one was not finite."""
    run: RunRecord
    """The run the weights come from."""
    model: ModelRecord
    """The network."""
    weights: dict[str, Any] | None = None
    """The weights that training began with: path, digest, format, what was changed; null where those were of chance."""

    @property
    def sha256(self) -> str:
        """Digest of the whole package: it covers the digests of all its files."""
        return hashlib.sha256(render(_to_tree(self))).hexdigest()


def is_name(text: str) -> bool:
    """Whether a package may be called so: letters, digits, '.', '_' and '-', at most 100, a letter or digit first."""
    return re.fullmatch(_NAME, text) is not None


def render_manifest(manifest: Manifest) -> bytes:
    """Bytes of manifest.json; the last entry is `Manifest.sha256`, so that no byte of it changes unseen."""
    return render({**_to_tree(manifest), "sha256": manifest.sha256})


def _to_tree(manifest: Manifest) -> dict[str, Any]:
    """As JSON values; without an entry for weights where there are none, as packages were before there could be."""
    tree = dump_params(manifest)
    return tree if manifest.weights is not None else {name: value for name, value in tree.items() if name != "weights"}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the package in `folder`, its own digest checked; the files are not looked at.

    Raises:
        PackageError: There is none, it is not of this format, or it was altered.
    """
    path = folder / MANIFEST
    tree = read_document(folder, MANIFEST)
    stated = tree.pop("sha256", None)
    manifest = parse(Manifest, tree, path)
    if stated != manifest.sha256 or path.read_bytes() != render_manifest(manifest):
        raise PackageError(f"{path}: was altered: it states digest {stated}, and is {manifest.sha256}; fetch it again")
    return manifest
