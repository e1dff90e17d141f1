"""Puts Fashion-MNIST on disk as it is published: four IDX files, checked.

From a folder that has them (Debian and Ubuntu: `apt install dataset-fashion-mnist`), or from TFDS.
"""

import argparse
import gzip
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlvlab_jax.cli import run_command
from mlvlab_jax.data.sources.arrays import read_idx
from mlvlab_jax.errors import DataError
from mlvlab_jax.files import write_atomic

SHAPES = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--idx-dir", type=Path, help="folder with the four IDX .gz files")
    source.add_argument("--tfds-dir", type=Path, help="TFDS data_dir with fashion_mnist prepared as array_record")
    parser.add_argument("--out", type=Path, default=Path("data/fashion_mnist/raw"), help="folder to write")
    parsed = parser.parse_args()
    return run_command(lambda: _fetch(parsed))


def _fetch(parsed: argparse.Namespace) -> int:
    files = _from_idx(parsed.idx_dir) if parsed.idx_dir else _from_tfds(parsed.tfds_dir)
    for name, shape, data in files:
        if shape != SHAPES[name]:
            raise DataError(f"{name}: shape {shape}; expected {SHAPES[name]}, so Fashion-MNIST; give another folder")
        write_atomic(parsed.out / name, data)
        print(f"{parsed.out / name}: {shape}")
    return 0


def _from_idx(folder: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    for name in SHAPES:
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; expected {', '.join(SHAPES)}; install dataset-fashion-mnist, or use --tfds-dir"
            )
        yield name, read_idx(path).shape, path.read_bytes()


def _from_tfds(data_dir: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    import tensorflow_datasets

    builder = tensorflow_datasets.builder("fashion_mnist", data_dir=str(data_dir), file_format="array_record")
    if not builder.data_path.exists():
        raise DataError(
            f"{builder.data_path}: not prepared there; expected what "
            f"`tfds build fashion_mnist --file_format=array_record --data_dir {data_dir}` makes"
        )
    for split, stem in (("train", "train"), ("test", "t10k")):
        examples = list(builder.as_data_source(split=split))
        images = np.stack([example["image"][..., 0] for example in examples])
        labels = np.array([example["label"] for example in examples], np.uint8)
        yield f"{stem}-images-idx3-ubyte.gz", images.shape, _to_idx(images)
        yield f"{stem}-labels-idx1-ubyte.gz", labels.shape, _to_idx(labels)


def _to_idx(array: np.ndarray) -> bytes:
    """A uint8 array as a gzipped IDX file; the same array gives the same bytes."""
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


if __name__ == "__main__":
    sys.exit(main())
