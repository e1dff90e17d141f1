"""`mlvlab checkpoint`: what a person sees of a run's checkpoints."""

import json
import shutil

import jax
import numpy as np
import pytest

from mlvlab_jax.checkpoints import main
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.trees import named_leaves
from tests.conftest import RecordingTracker, tiny_config
from tests.engine.test_integrity import flip

CONFIG = tiny_config(training={"num_epochs": 2})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, run(CONFIG, workdir=folder, tracker=RecordingTracker())


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_ls_tells_step_time_size_metric_and_which_is_best(finished, capsys):
    folder, result = finished
    assert main(["ls", "--workdir", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == list_steps(folder / "checkpoints")
    assert [row["step"] for row in rows if row["best"]] == [result.summary["best"]["step"]]
    assert all(row["bytes"] > 1000 and row["saved"].endswith("+00:00") for row in rows)
    assert main(["ls", "--workdir", str(folder)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(rows)
    assert sum(line.endswith("best") for line in shown) == 1


def test_verify_names_the_damaged_file_and_ends_with_66(copy, capsys):
    assert main(["verify", "--workdir", str(copy)]) == 0
    assert "DAMAGED" not in capsys.readouterr().out
    newest = list_steps(copy / "checkpoints")[-1]
    flip(copy / "checkpoints" / str(newest) / "state" / "_METADATA", 99)
    assert main(["verify", "--workdir", str(copy)]) == 66
    shown = capsys.readouterr().out
    assert f"{newest}  DAMAGED\n" in shown
    assert "state/_METADATA: other bytes than were saved" in shown
    assert main(["verify", "--workdir", str(copy), "--json"]) == 66
    assert json.loads(capsys.readouterr().out)[str(newest)] == ["state/_METADATA: other bytes than were saved"]


def test_export_is_the_state_in_plain_numpy(finished, tmp_path, capsys):
    folder, result = finished
    out = tmp_path / "state.npz"
    assert main(["export", "--workdir", str(folder), "--checkpoint", "last", "--out", str(out)]) == 0
    assert f"of step {result.progress.step}" in capsys.readouterr().out
    with np.load(out, allow_pickle=False) as arrays:
        for name, leaf in named_leaves(result.state.variables.params):
            np.testing.assert_array_equal(arrays[f"variables/params/{name}"], jax.device_get(leaf))
        assert len(arrays.files) == len(jax.tree.leaves(result.state))


def test_show_lists_the_arrays_that_export_writes(finished, capsys):
    folder, result = finished
    assert main(["show", "--workdir", str(folder), "--checkpoint", "last", "--json"]) == 0
    shown = {array["name"]: array for array in json.loads(capsys.readouterr().out)["arrays"]}
    for name, leaf in named_leaves(make_experiment(CONFIG).state.variables.params):
        told = shown[f"variables/params/{name}"]
        assert (tuple(told["shape"]), told["dtype"]) == (leaf.shape, str(leaf.dtype))
    assert len(shown) == len(jax.tree.leaves(result.state))
    assert main(["show", "--workdir", str(folder)]) == 0
    assert f"{len(shown)} arrays" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["ls", "--workdir", "none"], 64, "none: no config.yaml, so no run"),
        (["show", "--workdir", "RUN", "--checkpoint", "3"], 66, "no checkpoint of step 3; there are"),
        (["export", "--workdir", "RUN", "--out", "state.bin"], 64, "expected a new file that ends in .npz"),
        (["export", "--workdir", "RUN", "--out", "taken.npz"], 64, "expected a new file that ends in .npz"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, code, expected, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.npz").write_text("mine")
    assert main([str(finished[0]) if word == "RUN" else word for word in arguments]) == code
    assert expected in capsys.readouterr().err
    assert (tmp_path / "taken.npz").read_text() == "mine"


def test_a_damaged_checkpoint_is_not_exported(copy, tmp_path, capsys):
    newest = list_steps(copy / "checkpoints")[-1]
    (copy / "checkpoints" / str(newest) / "integrity.json").unlink()
    arguments = ["export", "--workdir", str(copy), "--checkpoint", "last", "--out", str(tmp_path / "a.npz")]
    assert main(arguments) == 66
    assert "integrity.json: missing; the save was cut off" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()
