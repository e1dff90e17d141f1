"""A package behind one Python function, as it is and as the guide subclasses it."""

import io
import logging
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.errors import PackageError, RegistryError
from mlvlab_jax.package.archive import write_archive
from mlvlab_jax.package.load import load_package
from mlvlab_jax.registry import ModelRegistry
from mlvlab_jax.registry.file_store import FileStore
from mlvlab_jax.registry.policy import PromotionPolicy
from mlvlab_jax.serving import ModelServer
from mlvlab_jax.serving.errors import InputError, PredictionError
from mlvlab_jax.serving.predictor import Outputs
from tests.conftest import ROOT


@pytest.fixture(scope="module", autouse=True)
def _own_compile_cache(tmp_path_factory):
    settings = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def server(made):
    return ModelServer(str(made))


@pytest.fixture(scope="module")
def picture():
    """A photo of another size than the network's, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def pixels_of(picture):
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_the_answer_to_a_file_is_that_of_the_package(made, server, picture, tmp_path):
    (tmp_path / "picture.png").write_bytes(picture)
    package = load_package(made)
    (expected,) = package.predict_probabilities(package.preprocess_bytes(picture)[None])
    for image in (picture, tmp_path / "picture.png", pixels_of(picture)):
        found = server.predict(image)
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)
        assert found["label"] == str(expected.argmax())
        assert found["confidence"] == pytest.approx(float(expected.max()), abs=1e-6)
        assert [name for name, _ in found["top"]] == [str(k) for k in np.argsort(-expected)[:5]]


def test_a_tar_answers_as_the_folder_it_was_made_of(made, server, picture, tmp_path):
    write_archive(made, tmp_path / "tiny.tar")
    found = ModelServer(tmp_path / "tiny.tar").predict(picture)
    np.testing.assert_array_equal(found["probabilities"], server.predict(picture)["probabilities"])


def test_a_version_and_an_alias_of_the_registry_are_opened_by_name(made, server, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = ModelRegistry(FileStore())
    registry.register(name="digits", version="1.0.0", package=made)
    registry.promote("digits", "1.0.0", policy=PromotionPolicy(data_version="any"))
    for reference in ("digits:1.0.0", "digits@champion"):
        opened = ModelServer(reference)
        assert (opened.model.name, opened.model.version) == ("digits", "1.0.0")
        assert opened.predict(picture)["label"] == server.predict(picture)["label"]
    with pytest.raises(RegistryError, match="has no alias 'challenger'"):
        ModelServer("digits@challenger")


def test_what_is_no_package_is_refused(tmp_path):
    with pytest.raises(PackageError, match="no such folder or file"):
        ModelServer(str(tmp_path / "nothing"))


def test_the_guide_subclasses_it(made, server, picture):
    class VisionModelServer(ModelServer):
        """Production model serving implementation."""

        def __init__(self, model_path: str):
            self.model = self.load_model(model_path)
            self.transforms = self.setup_transforms()
            self.device = self.setup_device()

        def preprocess(self, image: np.ndarray) -> jax.Array:
            """Preprocess input image."""
            return jax.device_put(self.transforms(image), self.device)

        def predict(self, image: np.ndarray) -> dict:
            """Run inference with error handling."""
            try:
                tensor = self.preprocess(image)
                output = self.model(tensor)
                return self.postprocess(output)
            except Exception as e:
                self.logger.error(f"Prediction failed: {e}")
                raise

    found = VisionModelServer(str(made)).predict(pixels_of(picture))
    assert found["label"] == server.predict(picture)["label"]
    np.testing.assert_array_equal(found["probabilities"], server.predict(pixels_of(picture))["probabilities"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), "image is uint8 (8, 8); expected uint8 (h, w, c), c 1 or 3"),
        (np.zeros((8, 8, 4), np.uint8), "image is uint8 (8, 8, 4)"),
        (np.zeros((0, 8, 3), np.uint8), "image is uint8 (0, 8, 3)"),
        (np.full((8, 8, 3), np.nan, np.float32), "image is float32 (8, 8, 3)"),
        (b"", "image: empty: "),
        (b"no image", "image: format: "),
        ("text", "image is a str; expected"),
    ],
)
def test_what_is_no_image_is_refused_and_logged(image, message, server, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(InputError) as caught:
        server.predict(image)
    assert message in str(caught.value)
    assert caplog.messages == [f"prediction failed: {caught.value}"]


def test_a_file_that_is_no_image_is_named(server, picture, tmp_path):
    (tmp_path / "cut.png").write_bytes(picture[:200])
    for name, reason in (("cut.png", "corrupt"), ("none.png", "No such file")):
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            server.predict(tmp_path / name)


def test_an_output_that_is_not_finite_is_no_answer(server):
    nothing = np.full((1, 10), np.nan, np.float32)
    with pytest.raises(PredictionError):
        server.postprocess(Outputs(nothing, nothing, nothing))


WITHOUT_SERVE = """
import pathlib, sys
for name in ("fastapi", "starlette", "uvicorn", "httptools", "uvloop", "prometheus_client", "httpx"):
    sys.modules[name] = None
import mlvlab_jax.serving
assert not {"jax", "numpy"} & sys.modules.keys()
from mlvlab_jax.serving import ModelServer
print(ModelServer(sys.argv[1]).predict(pathlib.Path(sys.argv[2]))["label"])
"""


def test_it_needs_nothing_of_the_server(made, server, picture, tmp_path):
    (tmp_path / "picture.png").write_bytes(picture)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": ""}
    command = [sys.executable, "-c", WITHOUT_SERVE, str(made), str(tmp_path / "picture.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == server.predict(picture)["label"]
