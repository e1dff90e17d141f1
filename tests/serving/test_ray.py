"""The Ray Serve application, really started, in an environment of its own with the extra `ray`."""

import io
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.package.load import load_package
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """Python of an environment with this project and Ray, in the versions of requirements.lock where it names them."""
    folder = tmp_path_factory.mktemp("ray")
    pins = re.findall(r"^(\S+==\S+?)( ;.*?)? \\$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert len(pins) > 100
    (folder / "constraints.txt").write_text("\n".join(map("".join, pins)))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--constraint", folder / "constraints.txt"]
    done = subprocess.run([*command, "--editable", f"{ROOT}[ray]"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip install --editable '.[ray]' fails: {done.stderr.splitlines()[-1:]}")
    return python


def encode(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_the_application_answers_as_the_package_does(python, made, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    questions = [("/v1/classify", encode(image)) for image in images]
    questions += [("/v1/classify", b"no image"), ("/v1/classify", bytes(21 * 2**20)), ("/v2/other", b"")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    task = {"port": port, "package": str(made), "questions": [(path, body.hex()) for path, body in questions]}
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [python, "-m", "tests.serving.ray_once"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    package = load_package(made)
    expected = package.predict_probabilities(images)
    for (status, reply), probabilities in zip(answers[:5], expected, strict=True):
        assert status == 200
        assert [row["label"] for row in reply["predictions"]] == [
            package.class_names[k] for k in np.argsort(-probabilities, kind="stable")[:5]
        ]
        np.testing.assert_allclose(
            [row["probability"] for row in reply["predictions"]], np.sort(probabilities)[::-1][:5], atol=1e-5
        )
        assert reply["version"] == package.manifest.sha256[:12]
    assert [status for status, _ in answers[5:]] == [400, 413, 404]
