"""The commands as a person runs them, each in its own process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.conftest import ROOT, TINY, merge

ENV = {**os.environ, "XLA_FLAGS": "", "COLUMNS": "100"}


def command(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", *args],
        capture_output=True,
        text=True,
        env=ENV,
        cwd=ROOT,
        check=False,
        timeout=300,
        **kwargs,
    )


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(merge(TINY, {"mesh": {"data": -1}})))
    return str(path)


def test_help_comes_without_jax():
    code = "import sys; from mlvlab_jax.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\nsys.exit(sum(m in sys.modules for m in ('jax', 'numpy', 'pydantic')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--workdir" in done.stdout


def test_train_evaluate_and_start_again(tiny, tmp_path):
    workdir = str(tmp_path / "run")
    code = (
        f"import sys; from mlvlab_jax.train import main; code = main(['--config', {tiny!r}, '--workdir', {workdir!r}]);"
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV, check=False)
    assert done.returncode == 0, done.stderr
    assert "tiny: test accuracy" in done.stdout
    assert f"tensorboard.main --logdir {workdir}" in done.stdout
    names = {path.name.split(".")[0] for path in (tmp_path / "run").iterdir()}
    assert {"config", "manifest", "metrics", "events", "summary", "checkpoints"} <= names

    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for which, expected in (("best", summary["best"]["step"]), ("18", 18), ("last", 18)):
        measured = command("mlvlab_jax.evaluate", "--workdir", workdir, "--checkpoint", which, "--json")
        assert measured.returncode == 0, measured.stderr
        result = json.loads(measured.stdout)
        assert result["step"] == expected
        if which == "best":
            assert result["accuracy"] == summary["best"]["test/accuracy"]
            assert result["loss"] == pytest.approx(summary["best"]["test/loss"], abs=1e-6)

    records = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = command("mlvlab_jax.train", "--config", tiny, "--workdir", workdir)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == records

    changed = command("mlvlab_jax.train", "--config", tiny, "--workdir", workdir, "seed=5")
    assert changed.returncode == 64
    assert "seed: 0 -> 5" in changed.stderr
    missing = command("mlvlab_jax.evaluate", "--workdir", workdir, "--checkpoint", "3")
    assert missing.returncode == 66
    assert "no checkpoint of step 3" in missing.stderr


def test_a_signal_saves_and_the_same_command_goes_on(tiny, tmp_path):
    args = ["--config", tiny, "--workdir", str(tmp_path / "run"), "training.num_epochs=100"]
    with subprocess.Popen(
        [sys.executable, "-m", "mlvlab_jax.train", *args], stderr=subprocess.PIPE, text=True, env=ENV
    ) as child:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run").glob("checkpoints/[0-9]*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 75, errors
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ended"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / str(summary["steps"])).exists()
    again = command("mlvlab_jax.train", *args, "tracking.log_every_steps=7")
    assert again.returncode == 0, again.stderr
    assert f"going on after step {summary['steps']}" in again.stderr


BAD = {
    "typo": (["training.lr=1"], 64, "training.lr: unknown key; did you mean 'learning_rate'?"),
    "patch": (
        ["model.name=vision_transformer", "model.params={patch_size: 16}"],
        64,
        "model.params.patch_size: the 8 x 8 image",
    ),
    "mesh": (["mesh.fsdp=3"], 64, "mesh: data -1 x fsdp 3"),
    "no data": (["data.name=arrays", "data.params={path: gone}"], 65, "gone: no such file or folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_an_exit_code_and_leaves_nothing(name, tiny, tmp_path):
    overrides, code, expected = BAD[name]
    done = command("mlvlab_jax.train", "--config", tiny, "--workdir", str(tmp_path / "run"), *overrides)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_an_unknown_command_names_the_known_ones():
    done = command("mlvlab_jax.cli", "trian")
    assert done.returncode == 2
    assert "train" in done.stderr
