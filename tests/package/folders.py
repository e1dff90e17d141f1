"""Packages without a network: right files with made-up contents, to be broken one way at a time."""

import hashlib
import json

import numpy as np

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.package.arrays import write_arrays
from mlvlab_jax.package.manifest import MANIFEST, MEMBERS, Manifest, render_manifest


def make_folder(folder):
    for name in MEMBERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            write_arrays(folder / name, {"params/kernel": np.arange(6, dtype=np.float32).reshape(2, 3)})
        elif name.endswith(".json"):
            (folder / name).write_text(json.dumps({"of": name}) + "\n")
        else:
            (folder / name).write_bytes(f"contents of {name}\n".encode())
    sign(folder)
    return folder


def sign(folder):
    """Writes the manifest anew, as somebody who means harm would."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = params_from(
        Manifest,
        {
            "name": "digits",
            "created": "2026-11-20T12:00:00Z",
            "files": files,
            "data": {"origin": "digits"},
            "data_version": [],
            "metrics": {"test/accuracy": 0.99, "test/loss": None},
            "run": {"config_hash": "0" * 64, "step": 18, "git": {"commit": "f" * 40, "dirty": False}, "seed": 0},
            "model": {"name": "cnn", "num_params": 6},
        },
    )
    (folder / MANIFEST).write_bytes(render_manifest(manifest))
