"""Packages without a network: right files with made-up contents, to be broken one way at a time."""

import dataclasses
import hashlib
import json

import numpy as np

from mlvlab_jax.config.fields import dump_params, params_from
from mlvlab_jax.config.load import to_tree
from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.package.arrays import write_arrays
from mlvlab_jax.package.documents import Calibration, Preprocess
from mlvlab_jax.package.manifest import FileRecord, Manifest, read_manifest, render_manifest
from mlvlab_jax.package.members import MANIFEST, MEMBERS
from tests.conftest import tiny_config

SPEC = PreprocessSpec(size=(8, 8), channels=1)
PROFILE = DataProfile.empty(2, 1).update(np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 1, 1]))
DOCUMENTS = {
    "config.json": lambda: json.dumps(to_tree(tiny_config(pipeline={"mean": [0.5], "std": [0.25]}))),
    "preprocess.json": lambda: json.dumps(dump_params(Preprocess.of(SPEC, mean=(0.5,), std=(0.25,)))),
    "labels.json": lambda: json.dumps({"class_names": ["cat", "dog"]}),
    "calibration.json": lambda: json.dumps(dump_params(Calibration(temperature=2.0, fitted_on="validation"))),
    "profile.json": PROFILE.to_json,
}


def make_folder(folder):
    for name in MEMBERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            write_arrays(folder / name, {"params/kernel": np.arange(6, dtype=np.float32).reshape(2, 3)})
        elif name in DOCUMENTS:
            (folder / name).write_text(DOCUMENTS[name]())
        else:
            (folder / name).write_bytes(f"contents of {name}\n".encode())
    write_manifest(folder)
    sign_again(folder)
    return folder


def write_manifest(folder):
    tree = {
        "name": "digits",
        "created": "2026-11-20T12:00:00Z",
        "files": {},
        "data": {"origin": "digits"},
        "data_version": [],
        "metrics": {"test/accuracy": 0.99, "test/loss": None},
        "run": {"config_hash": "0" * 64, "step": 18, "git": {"commit": "f" * 40, "dirty": False}, "seed": 0},
        "model": {"name": "cnn", "num_params": 6},
    }
    (folder / MANIFEST).write_bytes(render_manifest(params_from(Manifest, tree)))


def sign_again(folder):
    """Puts the digests of what lies in `folder` into its manifest, as somebody who means harm would."""
    manifest = read_manifest(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    files = {
        path.relative_to(folder).as_posix(): FileRecord(
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(), bytes=path.stat().st_size
        )
        for path in paths
    }
    (folder / MANIFEST).write_bytes(render_manifest(dataclasses.replace(manifest, files=files)))


def rewrite(folder, name, change):
    """Puts other keys into a document and signs the package anew."""
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    sign_again(folder)
