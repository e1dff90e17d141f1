"""manifest.json: what a package is made of, byte for byte, and where it comes from."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.errors import PackageError

MANIFEST = "manifest.json"
_MIB = 2**20

#: Every file a package may hold, and the most bytes it may have. There is no other place for anything.
MEMBERS: Mapping[str, int] = MappingProxyType(
    {
        MANIFEST: _MIB,
        "README.md": _MIB,
        "model.safetensors": 2**40,
        "config.json": _MIB,
        "preprocess.json": _MIB,
        "labels.json": 16 * _MIB,
        "calibration.json": _MIB,
        "profile.json": 16 * _MIB,
        "golden.safetensors": 256 * _MIB,
        "export/model.bin": 256 * _MIB,
        "export/export.json": _MIB,
        "evaluation/evaluation.json": 1024 * _MIB,
        "evaluation/predictions.parquet": 2**40,
    }
)
#: Of these a package may lack some: a run need not have a test split.
OPTIONAL = frozenset({"evaluation/evaluation.json", "evaluation/predictions.parquet"})

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
    """What a package is made of and where it comes from."""

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

    @property
    def sha256(self) -> str:
        """Digest of the whole package: it covers the digests of all its files."""
        return hashlib.sha256(_render(_ADAPTER.dump_python(self, mode="json"))).hexdigest()


_ADAPTER: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def is_name(text: str) -> bool:
    """Whether a package may be called so: letters, digits, '.', '_' and '-', at most 100, a letter or digit first."""
    return re.fullmatch(_NAME, text) is not None


def render_manifest(manifest: Manifest) -> bytes:
    """Bytes of manifest.json; the last entry is `Manifest.sha256`, so that no byte of it changes unseen."""
    return _render({**_ADAPTER.dump_python(manifest, mode="json"), "sha256": manifest.sha256})


def _render(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the package in `folder`, its own digest checked; the files are not looked at.

    Raises:
        PackageError: There is none, it is not of this format, or it was altered.
    """
    path = folder / MANIFEST
    tree = read_document(folder, MANIFEST)
    stated = tree.pop("sha256", None)
    try:
        manifest = _ADAPTER.validate_json(json.dumps(tree))
    except ValidationError as error:
        raise PackageError(
            f"{path}: {describe_invalid(error)}; expected a manifest of schema 1; fetch it again"
        ) from None
    if stated != manifest.sha256 or path.read_bytes() != render_manifest(manifest):
        raise PackageError(f"{path}: was altered: it states digest {stated}, and is {manifest.sha256}; fetch it again")
    return manifest


def describe_invalid(error: ValidationError) -> str:
    """The first finding of pydantic, in one line: 'run.step: Input should be a valid integer'."""
    first = error.errors(include_url=False, include_input=False)[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}{more}"


def read_document(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the package in `folder`.

    Args:
        folder: Of the package.
        name: One of `MEMBERS`.

    Raises:
        PackageError: Missing, too long, not a JSON object, or with a key given twice.
    """
    path, limit = folder / name, MEMBERS[name]
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise PackageError(f"{path}: {error.strerror}; expected a file of a model package; check the path") from None
    if len(data) > limit:
        raise PackageError(f"{path}: over {limit} bytes; expected less of a model package; fetch it again")
    try:
        tree = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path}: not JSON as a package holds it ({error}); fetch it again") from None
    if not isinstance(tree, dict):
        raise PackageError(f"{path}: holds a {type(tree).__name__}; expected a JSON object; fetch it again")
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError(f"a key is given twice in {sorted(key for key, _ in pairs)[:20]}")
    return tree


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
