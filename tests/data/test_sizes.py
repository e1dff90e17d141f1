"""Sizes of stored images, for slices of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.pack import pack
from mlvlab_jax.data.records import read_sides
from mlvlab_jax.plugins import SOURCES, Spec

PIPELINE = {"preprocess": {"size": [8, 8]}, "validation_fraction": 0.0}


def save_folder(folder, sizes, **options):
    for k, size in enumerate(sizes):
        path = folder / ("cat", "dog")[k % 2] / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (*size, 3), np.uint8)).save(path, **options)


def open_split(name, **params):
    pipeline = params_from(PipelineConfig, PIPELINE | {"max_memory_mib": params.pop("max_memory_mib", 1)})
    return open_data(Spec(name, params_from(SOURCES.entry(name).params, params)), pipeline, seed=0).train


@pytest.mark.parametrize("max_memory_mib", [0, 1], ids=["streamed", "in memory"])
def test_sides_are_those_of_the_files(tmp_path, max_memory_mib):
    save_folder(tmp_path, [(10, 40), (16, 16), (12, 27)] * 30)
    split = open_split("image_folder", path=str(tmp_path), max_memory_mib=max_memory_mib)
    ids = split.ids[::-1]
    expected = [(20.0, 16.0, 18.0)[int(Path(split.source.name(int(k))).stem) % 3] for k in ids]
    np.testing.assert_allclose(read_sides(split.source, ids), expected)


def test_packed_files_have_sizes_too(tmp_path):
    save_folder(tmp_path / "files", [(10, 40), (16, 16)] * 2)
    source = Spec("image_folder", params_from(SOURCES.entry("image_folder").params, {"path": str(tmp_path / "files")}))
    pack(source, params_from(PipelineConfig, PIPELINE), folder=tmp_path / "pack")
    split = open_split("array_record", path=str(tmp_path / "pack"))
    assert sorted(read_sides(split.source, split.ids).tolist()) == [16, 16, 20, 20]


def test_one_size_or_none_gives_no_slices(tmp_path):
    save_folder(tmp_path, [(10, 40)] * 4)
    split = open_split("image_folder", path=str(tmp_path))
    assert read_sides(split.source, split.ids) is None
    digits = open_split("digits")
    assert read_sides(digits.source, digits.ids) is None
