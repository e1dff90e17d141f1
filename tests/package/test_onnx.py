"""The ONNX export, in an environment of its own: that of $ONNX_PYTHON, or one that the test makes."""

import os
import shutil
import subprocess
import sys

import pytest

from mlvlab_jax.engine.loop import run
from mlvlab_jax.package.build import write_package
from tests.conftest import ROOT, RecordingTracker, tiny_config
from tests.package.folders import sign_again
from tests.package.trained import TODAY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def onnx_python(tmp_path_factory):
    if "ONNX_PYTHON" in os.environ:
        return os.environ["ONNX_PYTHON"]
    folder = tmp_path_factory.mktemp("onnx")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin/python", "-m", "pip", "install", "-q", "-r", ROOT / "scripts/requirements-onnx.txt"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no environment for jax2onnx could be made, and ONNX_PYTHON is not set: {done.stderr[-300:]}")
    return str(folder / "bin/python")


def export(onnx_python, package, out):
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [onnx_python, ROOT / "scripts/export_onnx.py", package, out]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


PARITY = """
import sys, numpy, onnxruntime, safetensors.numpy
golden = safetensors.numpy.load_file(sys.argv[1] + "/golden.safetensors")
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
for n in (1, 2, 16):
    logits = session.run(["logits"], {"image": golden["image"][:n]})[0]
    assert logits.shape == golden["logits"][:n].shape
    print(numpy.abs(logits - golden["logits"][:n]).max())
print(session.get_modelmeta().custom_metadata_map["class_names"])
"""
MODELS = {
    "cnn": {"name": "cnn", "params": {"widths": [8, 16], "norm": "batch"}},
    "vit": {
        "name": "vision_transformer",
        "params": {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "patch_size": 4},
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_gives_the_golden_logits_for_any_batch(name, onnx_python, tmp_path):
    config = tiny_config(model=MODELS[name], training={"num_epochs": 1}, compile_cache=False)
    run(config, workdir=tmp_path / "run", tracker=RecordingTracker())
    package = write_package(tmp_path / "run", today=TODAY)
    done = export(onnx_python, package, tmp_path / "model.onnx")
    assert done.returncode == 0, done.stderr
    measure = [onnx_python, "-c", PARITY, package, tmp_path / "model.onnx"]
    *differences, names = subprocess.run(measure, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [value for value in differences if not float(value) <= 1e-4] == []
    assert len(differences) == 3
    assert '"0"' in names


def test_a_package_that_was_tampered_with_is_not_exported(onnx_python, made, tmp_path):
    package = shutil.copytree(made, tmp_path / "package")
    (package / "loader.py").write_text("")
    sign_again(package)
    done = export(onnx_python, package, tmp_path / "model.onnx")
    assert done.returncode == 65
    assert "holds 'loader.py'" in done.stderr
    assert not (tmp_path / "model.onnx").exists()
