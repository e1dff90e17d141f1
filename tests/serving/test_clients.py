"""The clients and the tester that people use, each the real one, in an environment of its own."""

import json
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from tests.serving.fakes import NAMES, VERSION, FakePredictor, close_all, listening, make_serving
from tests.serving.real_clients import IMAGES

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER / "requirements-clients.txt"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """Folder of the programs of an environment with the clients."""
    folder = tmp_path_factory.mktemp("clients") / "venv"
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{REQUIREMENTS.name} cannot be installed: {made.stderr[-300:]}")
    return folder / "bin"


@pytest.fixture
def port():
    with listening(make_serving()) as port:
        yield port
    close_all()


def ask(clients, client, port):
    command = [str(clients / "python"), str(FOLDER / "real_clients.py"), client, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_arrays(found, names):
    outputs = FakePredictor().predict(IMAGES)
    assert set(found) == set(names)
    assert found["label"] == [NAMES[3], NAMES[0]]
    for name in set(names) - {"label"}:
        assert np.asarray(found[name], np.float32).tolist() == getattr(outputs, name).tolist()


ALL = ("logits", "probabilities", "embedding", "label")


def test_tritonclient(clients, port):
    found = ask(clients, "tritonclient", port)
    assert all((found["live"], found["ready"], found["version ready"]))
    assert not found["other"]
    assert found["extensions"] == ["binary_tensor_data"]
    assert found["metadata"]["versions"] == [VERSION]
    for binary in (True, False):
        for everything, names in ((True, ALL), (False, ("label", "embedding"))):
            given, arrays = found[f"infer {binary} {everything}"]
            assert given == "mine"
            check_arrays(arrays, names)
    assert found["shape"] == ["400", "shape must be that of the model's metadata, of one image or more"]
    assert found["compressed"] == ["415", "a compressed body is not accepted"]
    assert found["aio"] == FakePredictor().predict(IMAGES).embedding.tolist()


def test_kserve(clients, port):
    found = ask(clients, "kserve", port)
    assert all((found["live"], found["ready"], found["model"]))
    assert not found["other"]
    for binary in (True, False):
        for json_out in (True, False):
            given, arrays = found[f"infer {binary} {json_out}"]
            assert given == "mine"
            check_arrays(arrays, ALL)


#: Not that all data is accepted: no schema says that shape and data belong together, or that bytes are an image.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,missing_required_header,unsupported_method,allow_header_conformance"
)


#: A deadline of a millisecond is answered with 504, as it should be.
PATIENT = '[parameters]\n"header.X-Deadline-Ms" = "2000"\n'
KNOWN = f'name = "shades"\nversion = "{VERSION}"\n'


@pytest.mark.parametrize("given", ["", KNOWN], ids=["any names", "the model's name"])
def test_schemathesis_finds_nothing(clients, port, tmp_path, given):
    (tmp_path / "schemathesis.toml").write_text(PATIENT + given)
    command = [str(clients / "schemathesis"), "run", f"http://127.0.0.1:{port}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", "150", "--seed", "1", "--generation-database", "none", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "12 selected / 12 total" in done.stdout
