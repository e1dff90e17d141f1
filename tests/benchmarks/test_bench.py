import subprocess

import pytest

from mlvlab_jax import bench
from mlvlab_jax.errors import ConfigError
from tests.conftest import ROOT


def test_command_hands_the_names_to_the_checkouts_runner(monkeypatch):
    started = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, check: started.append(command) or subprocess.CompletedProcess(command, 3)
    )
    assert bench.main(["startup"]) == 3
    assert started[0][1:] == [str(ROOT / "benchmarks" / "run.py"), "startup"]


def test_installation_without_a_checkout_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "mlvlab_jax" / "bench.py"))
    with pytest.raises(ConfigError, match="expected a checkout"):
        bench.find_runner()
    assert bench.main([]) == 64
    assert "run this in a clone" in capsys.readouterr().err
