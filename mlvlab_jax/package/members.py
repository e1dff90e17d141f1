"""What a package may hold: a fixed list of files, each with a bound, and no place for anything else."""

from collections.abc import Mapping
from types import MappingProxyType

from mlvlab_jax.errors import PackageError

_MIB = 2**20
MANIFEST = "manifest.json"

#: Every file a package may hold, and the most bytes it may have.
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
        "reference.safetensors": 256 * _MIB,
        "export/model.bin": 64 * _MIB,
        "export/export.json": _MIB,
        "evaluation/evaluation.json": 1024 * _MIB,
        "evaluation/predictions.parquet": 2**40,
    }
)
#: Of these a package may lack some: a run need not have been evaluated.
OPTIONAL = frozenset({"evaluation/evaluation.json", "evaluation/predictions.parquet"})
#: Folders inside a package.
FOLDERS = frozenset(name.rpartition("/")[0] for name in MEMBERS) - {""}


def check_member(name: str, num_bytes: int, *, place: str) -> None:
    """Refuses a file that has no place in a package, or is too long for its place.

    Raises:
        PackageError: Names the file, `place` and the files there may be.
    """
    if name not in MEMBERS:
        raise PackageError(f"{place}: holds {name!r}; expected nothing but {', '.join(MEMBERS)}; take it out")
    if num_bytes > MEMBERS[name]:
        raise PackageError(f"{place}: {name} has {num_bytes} bytes; expected at most {MEMBERS[name]}; fetch it again")
