"""`mlvlab sweep` as a person runs it."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from mlvlab_jax.config.load import load_config
from mlvlab_jax.engine.folder import read_config
from tests.conftest import ROOT, TINY, merge
from tests.end_to_end.test_commands import ENV, command
from tests.sweeps.fake_trainer import HANGS
from tests.sweeps.test_runner import FAKE

SPACE = {
    "sampler": {"name": "grid"},
    "overrides": {"training.num_epochs": 1},
    "space": {"training.learning_rate": {"values": [0.01, 0.02]}},
}
DRIVER = """
import sys
from mlvlab_jax import sweep
from mlvlab_jax.sweeps import runner
runner.run_sweep.__kwdefaults__["trainer"] = (sys.executable, sys.argv[1])
sys.exit(sweep.main(sys.argv[2:]))
"""


@pytest.fixture
def files(tmp_path):
    """Arguments of a sweep over a tiny configuration."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(merge(TINY, {"mesh": {"data": -1}})))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    names = {"--config": "tiny.yaml", "--space": "space.yaml", "--workdir": "sweep"}
    return [word for option, name in names.items() for word in (option, str(tmp_path / name))]


def test_a_sweep_of_real_runs_ends_in_a_configuration_to_train_with(files, tmp_path):
    done = command("mlvlab_jax.sweep", *files)
    assert done.returncode == 0, done.stderr
    assert f"to use it:  mlvlab train --config {tmp_path}/sweep/best.yaml" in done.stdout
    again = command("mlvlab_jax.sweep", *files, "--json")
    assert (again.returncode, again.stderr) == (0, "")
    result = json.loads(again.stdout)
    assert [trial["state"] for trial in result["trials"]] == ["complete", "complete"]
    for trial in result["trials"]:
        workdir = tmp_path / "sweep" / trial["workdir"]
        summary = json.loads((workdir / "summary.json").read_text())
        assert trial["value"] == summary["best"]["validation/accuracy"]
        assert read_config(workdir).training.learning_rate == trial["params"]["training.learning_rate"]
    best = load_config([tmp_path / "sweep" / "best.yaml"]).config
    assert best == read_config(tmp_path / "sweep" / result["best"]["workdir"])
    assert best.training.num_epochs == 1
    reused = command("mlvlab_jax.train", "--config", str(tmp_path / "sweep" / "base.yaml"), "--workdir", files[-1])
    assert reused.returncode == 64  # a sweep's folder is not a run's


def test_a_signal_lets_the_trial_save_and_the_same_command_goes_on(files, tmp_path):
    hanging = merge(SPACE, {"space": {"training.label_smoothing": {"values": [HANGS]}}})
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(hanging))
    driver = [sys.executable, "-c", DRIVER, str(FAKE), *files]
    second = tmp_path / "sweep" / "trials" / "0001" / "metrics.jsonl"
    with subprocess.Popen(driver, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENV) as child:
        deadline = time.monotonic() + 60
        while not second.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        shown, _ = child.communicate(timeout=60)
    assert child.returncode == 75
    assert f"interrupted and saved; to go on, add --workdir {tmp_path}/sweep" in shown
    done = subprocess.run(driver, capture_output=True, text=True, cwd=ROOT, env=ENV, check=False)
    assert (done.returncode, done.stdout.count("complete")) == (0, 2), done.stderr


def test_a_bad_space_is_one_message_and_leaves_nothing(files, tmp_path):
    (tmp_path / "space.yaml").write_text("space:\n  training.lr: {values: [1]}\n")
    done = command("mlvlab_jax.sweep", *files)
    assert done.returncode == 64
    assert "space.yaml:2: training.lr: unknown key; did you mean 'learning_rate'?" in done.stderr
    assert not (tmp_path / "sweep").exists()


def test_bad_spaces_are_found_without_jax_or_optuna(tmp_path):
    (tmp_path / "space.yaml").write_text("space:\n  training.lr: {values: [1]}\n")
    code = (
        "import sys; from mlvlab_jax.sweep import main; "
        f"code = main(['--config', 'configs/digits.yaml', '--space', {str(tmp_path / 'space.yaml')!r}]);"
        "sys.exit(code != 64 or 'jax' in sys.modules or 'optuna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_space_fits_its_configuration(path):
    from mlvlab_jax.sweeps.space import load_space

    loaded = load_space(path)
    base = loaded.fix(load_config([ROOT / "configs" / path.name]).config)
    assert base.training.num_epochs == loaded.space.overrides["training.num_epochs"]
