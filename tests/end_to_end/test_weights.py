"""Weights as a person gives them to the commands, each in its own process."""

import subprocess
import sys

import pytest
import yaml

from tests.conftest import TINY, merge
from tests.end_to_end.test_commands import ENV, command


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(merge(TINY, {"mesh": {"data": -1}})))
    return str(path)


def test_help_comes_without_jax():
    code = (
        "import sys; from mlvlab_jax.cli import main\n"
        "try: main(['weights', 'import', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(sum(m in sys.modules for m in ('jax', 'numpy', 'pydantic', 'safetensors')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV, check=False)
    assert done.returncode == 0
    assert "--head" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["weights.path=/nowhere/weights.safetensors"], 65, "/nowhere/weights.safetensors: no such file"),
        (["weights.path=a", "weights.head=new", "weights.classes=[1]"], 64, "expected one of the two"),
        (["weights.path=a", "weights.haed=new"], 64, "did you mean 'head'"),
    ],
)
def test_training_on_weights_of_no_use_leaves_nothing_behind(tiny, tmp_path, overrides, code, message):
    workdir = tmp_path / "run"
    done = command("mlvlab_jax.train", "--config", tiny, "--workdir", str(workdir), *overrides)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not workdir.exists()
