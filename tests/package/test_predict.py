"""What an open package computes: logits, embeddings, programs compiled ahead, pixels of files."""

import datetime
import io

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from mlvlab_jax.errors import DataError
from mlvlab_jax.package.load import load_package
from tests.package.trained import TODAY

LATER = TODAY + datetime.timedelta(days=400)


def golden(folder):
    return safetensors.numpy.load_file(folder / "golden.safetensors")


@pytest.mark.parametrize("today", [TODAY, LATER], ids=["export", "weights"])
def test_a_program_compiled_for_a_batch_gives_the_outputs_and_compiles_nothing_more(today, made, caplog):
    package = load_package(made, today=today)
    assert (package.source, package.name) == ("export" if today == TODAY else "weights", "tiny")
    images = golden(made)["image"]
    programs = {size: package.compile(size) for size in (1, 3)}
    with jax.log_compiles():
        outputs = {size: program(images[:size]) for size, program in programs.items()}
        assert "Compiling" not in caplog.text
        package.predict(images[:5])
        assert "Compiling" in caplog.text
    for size, (logits, embedding) in outputs.items():
        for name, found in (("logits", logits), ("embedding", embedding)):
            assert (type(found), found.dtype) == (np.ndarray, np.float32)
            np.testing.assert_allclose(found, golden(made)[name][:size], atol=1e-5)
    for wrong in (images[:2], images[:4], images[0]):
        with pytest.raises(DataError, match="expected"):
            programs[3](wrong)


def test_logits_are_the_embedding_through_the_last_layer(made):
    package = load_package(made)
    weights = safetensors.numpy.load_file(made / "model.safetensors")
    logits, embedding = package.predict(golden(made)["image"])
    assert embedding.shape == (16, 16)
    np.testing.assert_allclose(
        logits, embedding @ weights["params/head/kernel"] + weights["params/head/bias"], atol=1e-4
    )
    np.testing.assert_array_equal(package.predict_logits(golden(made)["image"]), logits)


def test_the_stored_size_of_a_file_comes_with_its_pixels(made):
    package = load_package(made, verify=False)
    file = io.BytesIO()
    Image.fromarray(np.arange(35 * 50 * 3, dtype=np.uint8).reshape(35, 50, 3)).save(file, "PNG")
    header, pixels = package.inspect_bytes(file.getvalue())
    assert (header.height, header.width, header.format) == (35, 50, "PNG")
    np.testing.assert_array_equal(pixels, package.preprocess_bytes(file.getvalue()))
