"""Packages of made-up contents: which examples they have right, what they measured, and on which data."""

import numpy as np

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.evaluation.predictions import Predictions, write_predictions
from mlvlab_jax.files import sha256_file
from mlvlab_jax.package.arrays import write_arrays
from mlvlab_jax.package.manifest import Manifest, render_manifest
from mlvlab_jax.package.members import MANIFEST
from tests.package.folders import make_folder

DATA_VERSION = {"path": "data/raw", "md5": "a" * 32 + ".dir", "size_bytes": 9, "num_files": 3, "dirty": False}
NUM_EXAMPLES = 1000


def make_package(folder, *, wrong=(), first=0, data_version=(DATA_VERSION,), seed=0):
    """A package that has all of 1,000 examples right but those in `wrong`, counted from example `first`."""
    make_folder(folder)
    write_arrays(folder / "golden.safetensors", {"image": np.full((2, 8, 8, 1), seed, np.uint8)})
    label = np.arange(NUM_EXAMPLES, dtype=np.int32) % 2
    right = ~np.isin(np.arange(NUM_EXAMPLES), list(wrong))
    predictions = Predictions(
        ids=tuple(f"{first + k:05}.png" for k in range(NUM_EXAMPLES)),
        index=np.arange(NUM_EXAMPLES),
        label=label,
        logits=np.eye(2, dtype=np.float32)[np.where(right, label, 1 - label)],
        class_names=("cat", "dog"),
        split="test",
        step=1,
        config_hash="0" * 64,
    )
    write_predictions(folder / "evaluation" / "predictions.parquet", predictions)
    sign(folder, metrics={"test/accuracy": float(right.mean()), "test/loss": None}, data_version=data_version)
    return folder


def sign(folder, *, metrics, data_version=()):
    """Writes the manifest of what is in the folder."""
    (folder / MANIFEST).unlink(missing_ok=True)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in paths
    }
    tree = {
        "name": "digits",
        "created": "2026-11-20T12:00:00Z",
        "files": files,
        "data": {"origin": "digits"},
        "data_version": list(data_version),
        "metrics": metrics,
        "run": {"config_hash": "0" * 64, "step": 1, "git": None, "seed": 0},
        "model": {"name": "cnn", "num_params": 6},
    }
    (folder / MANIFEST).write_bytes(render_manifest(params_from(Manifest, tree)))
