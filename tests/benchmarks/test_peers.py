"""Our networks and timm's train alike, where there is an interpreter with timm (see benchmarks/torch_python.py)."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.conftest import ROOT


def test_no_interpreter_is_told_in_words(tmp_path, monkeypatch):
    find = importlib.import_module("torch_python").find_torch_python
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_PYTHON", raising=False)
    assert find(None, make=False) == (
        None,
        "no interpreter with PyTorch: set TORCH_PYTHON, or let --make-torch make one",
    )
    assert find(str(tmp_path / "none"), make=False) == (None, f"{tmp_path}/none: No such file or directory")
    python, words = find(sys.executable, make=False)
    assert python is None
    assert "No module named" in words


@pytest.mark.slow
def test_losses_and_gradients_agree():
    python, told = importlib.import_module("torch_python").find_torch_python(None, make=False)
    if python is None:
        pytest.skip(told)
    command = [sys.executable, str(BENCHMARKS / "step_time.py"), "--quick", "--torch-python", python]
    environment = {**os.environ, "XLA_FLAGS": "", "TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, measured in json.loads(done.stdout.splitlines()[-1])["results"].items():
        if name != "peer":
            assert measured["equal"]["apart"]["gradients"] < 1e-4
            assert set(measured["milliseconds_a_step"]) == {"ours", "bare", "torch_eager", "torch_compile"}
