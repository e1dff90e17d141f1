"""Files of weights as people have them: recognised by what is in them, read without running anything of them."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mlvlab_jax.errors import DataError
from mlvlab_jax.files import sha256_file, write_atomic
from mlvlab_jax.weights.flax_names import name_plainly
from mlvlab_jax.weights.hub import fetch_weights

#: What a folder of weights may call them, in the order in which they are looked for.
NAMES = ("weights.safetensors", "model.safetensors", "model.safetensors.index.json")
_PICKLE = "pickled objects, which run code when they are read"
_CONVERT = (
    'convert it where it comes from: python -c "import sys, torch; from safetensors.torch import save_file; '
    "tree = torch.load(sys.argv[1], weights_only=True, map_location='cpu'); tree = tree.get('model', tree.get("
    "'state_dict', tree)); save_file({name: array.contiguous() for name, array in tree.items()}, sys.argv[2])\" "
    "{path} weights.safetensors"
)


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """Arrays by name, and where they are from.

    source: as it was named. path: of the file. container: what kind of file. sha256: of its bytes, or of the digests of
    its parts. class_names: of the logits, where a document beside it says so.
    """

    source: str
    path: Path
    container: str
    sha256: str
    arrays: dict[str, np.ndarray] = dataclasses.field(repr=False)
    class_names: tuple[str, ...] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the arrays."""
        return {name: tuple(array.shape) for name, array in self.arrays.items()}


def read_weights(source: str) -> WeightFile:
    """Reads a file, a folder that holds one, or what a hub id `hf:owner/name[@revision]` names.

    Raises:
        DataError: There is none, it is damaged, or it is of a kind that is not read.
    """
    path = fetch_weights(source) if source.startswith("hf:") else Path(source)
    path = _inside(path) if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{source}: no such file; expected weights in safetensors or .npz; check the path")
    if path.name.endswith(".index.json"):
        arrays, digest, container = *_read_shards(path), "safetensors"
    else:
        arrays, container = _read(path)
        digest = sha256_file(path)
    if not arrays:
        raise DataError(f"{path}: holds no arrays; expected the weights of a network; fetch it again")
    if (path.parent / "manifest.json").is_file():
        _check_package(path, digest)
    return WeightFile(source, path, container, digest, arrays, _read_class_names(path.parent))


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], *, metadata: dict[str, str] | None = None) -> None:
    """Writes arrays by name: whole or not at all; the same ones give the same bytes."""
    # safetensors writes the memory of an array as it lies there: that of a transposed view is another array's.
    ordered = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    write_atomic(path, safetensors.numpy.save(ordered, metadata=metadata))


def _inside(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder}: a folder without weights; expected a file, or a folder that holds one of {', '.join(NAMES)}, as a "
        "package does; name the file itself, or make a package of a run"
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise DataError(f"{path}: an empty file; expected weights; fetch it again")
    if head.startswith(b"PK"):
        return _read_npz(path), "npz"
    # safetensors begin with a length of eight bytes, which may look like those of pickled objects, and go on with JSON.
    pickled = head[:1] == b"\x80" or path.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt")
    if pickled and head[8:9] != b"{":
        raise _refuse_pickle(path)
    return _read_safetensors(path), "safetensors"


def _refuse_pickle(path: Path) -> DataError:
    return DataError(f"{path}: {_PICKLE}; expected safetensors or .npz; {_CONVERT.replace('{path}', str(path))}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(name.rpartition("/")[2] == "data.pkl" for name in members):
            raise _refuse_pickle(path)
        with np.load(path, allow_pickle=False) as file:
            return name_plainly({name: file[name] for name in file.files})
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        reason = _PICKLE if "allow_pickle" in str(error) else str(error)
        raise DataError(f"{path}: not an .npz of arrays ({reason}); fetch it again, or save it as one") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401 - numpy then knows bfloat16, as some weights are

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a whole safetensors file ({error}); expected safetensors or .npz; fetch it again"
        ) from None


def _read_shards(index: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of all files that `index` names, and a digest of all."""
    tree = _read_json(index)
    placed = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise DataError(f"{index}: no weight_map; expected the index of sharded safetensors; fetch it again")
    arrays: dict[str, np.ndarray] = {}
    digests = []
    for name in sorted(set(placed.values())):
        path = index.parent / name
        if Path(name).name != name or not path.is_file():
            raise DataError(f"{index}: names {name!r}, which is not beside it; fetch that file too")
        arrays |= _read_safetensors(path)
        digests.append(f"{name} {sha256_file(path)}\n")
    if lost := placed.keys() - arrays.keys():
        raise DataError(f"{index}: {sorted(lost)[:5]} are in none of its files; fetch them again")
    return arrays, hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not JSON ({error}); fetch it again") from None


def _check_package(path: Path, digest: str) -> None:
    """Compares weights with what the manifest of their package says of them."""
    tree = _read_json(path.parent / "manifest.json")
    files = tree.get("files") if isinstance(tree, dict) else None
    record = files.get(path.name) if isinstance(files, dict) else None
    if isinstance(record, dict) and record.get("sha256") != digest:
        raise DataError(
            f"{path}: SHA-256 {digest}, the manifest beside it says {record.get('sha256')}; fetch the package again"
        )


def _read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Of labels.json of a package, or id2label of transformers' config.json where it holds more than placeholders."""
    if (folder / "labels.json").is_file():
        tree = _read_json(folder / "labels.json")
        return tuple(tree["class_names"]) if isinstance(tree, dict) and "class_names" in tree else None
    if not (folder / "config.json").is_file():
        return None
    tree = _read_json(folder / "config.json")
    named = tree.get("id2label") if isinstance(tree, dict) else None
    if not isinstance(named, dict) or not named:
        return None
    names = tuple(str(named.get(str(i))) for i in range(len(named)))
    return None if names[0] == "LABEL_0" else names
