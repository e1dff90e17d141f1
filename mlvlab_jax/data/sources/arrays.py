"""Arrays in files: one .npz, or a folder of IDX files as MNIST and its successors are published."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.data.source import ArraySource, OpenedData, open_arrays
from mlvlab_jax.data.versions import pull_hint
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES

_IDX_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_IDX_STEMS = {"train": "train", "test": "t10k"}
_NPZ_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@configclass
class ArraysParams:
    """Where the arrays are."""

    path: str = Field(json_schema_extra=OPERATIONAL)
    """An .npz file with x_train, y_train, x_test, y_test (and x_val, y_val), or a folder with train-images-idx3-ubyte,
    train-labels-idx1-ubyte, t10k-..., gzipped or not."""
    class_names: tuple[str, ...] | None = None
    """Names in the order of the labels; null takes the numbers up to the largest training label."""


@SOURCES.register("arrays", ArraysParams)
def open_array_files(params: ArraysParams) -> OpenedData:
    """Reads all splits into memory.

    Raises:
        DataError: The path or a file in it is missing or not of its format.
    """
    path = Path(params.path).expanduser()
    if path.is_dir():
        splits = _read_idx_folder(path)
    elif path.is_file():
        splits = _read_npz(path)
    else:
        raise DataError(
            f"{path}: no such file or folder; set data.params.path to an .npz file or a folder of IDX files"
            + pull_hint(path)
        )
    return open_arrays(splits, params.class_names, origin=path.name, paths=(path,))


def _read_npz(path: Path) -> dict[str, ArraySource]:
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, zipfile.BadZipFile, OSError, AttributeError) as error:
        raise DataError(f"{path}: not an .npz of plain arrays ({error}); write it with numpy.savez") from None
    missing = {"x_train", "y_train"} - arrays.keys()
    if missing:
        raise DataError(f"{path}: has {sorted(arrays)}; expected x_train and y_train, and x_test and y_test")
    return {
        name: ArraySource(arrays[f"x_{key}"], arrays[f"y_{key}"].reshape(-1), place=f"{path}[{key}]")
        for name, key in _NPZ_SPLITS.items()
        if f"x_{key}" in arrays and f"y_{key}" in arrays
    }


def _read_idx_folder(path: Path) -> dict[str, ArraySource]:
    splits = {}
    for name, stem in _IDX_STEMS.items():
        images = _find(path, f"{stem}-images-idx3-ubyte")
        labels = _find(path, f"{stem}-labels-idx1-ubyte")
        splits[name] = ArraySource(read_idx(images), read_idx(labels), place=str(images))
    return splits


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{folder}: holds neither {name} nor {name}.gz; expected the four files MNIST is published as"
        + pull_hint(folder)
    )


def read_idx(path: Path) -> np.ndarray:
    """Array in an IDX file (two zero bytes, type, number of dims, big-endian sizes, data), gzipped if named .gz.

    Raises:
        DataError: The header or the length is wrong.

    References:
        Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (the format's description).
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be decompressed ({error}); fetch the file again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_DTYPES:
        raise DataError(f"{path}: starts with {raw[:4]!r}; expected an IDX header; fetch the file again")
    dtype, num_dims = np.dtype(_IDX_DTYPES[raw[2]]), raw[3]
    start = 4 + 4 * num_dims
    shape = tuple(np.frombuffer(raw[4:start], ">i4").tolist())
    expected = start + int(np.prod(shape)) * dtype.itemsize
    if len(raw) != expected:
        raise DataError(f"{path}: {len(raw)} bytes; expected {expected} for shape {shape}; fetch the file again")
    return np.frombuffer(raw, dtype, offset=start).reshape(shape)
