"""Accuracy and calibration of a run on corrupted images."""

import json

import pytest

from mlvlab_jax.data.corruptions import CORRUPTIONS
from mlvlab_jax.engine.loop import run
from mlvlab_jax.evaluate import main
from tests.conftest import RecordingTracker, tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    data = {"name": "synthetic", "params": {"num_train": 160, "num_test": 40, "height": 8, "width": 8, "channels": 1}}
    run(tiny_config(data=data, training={"num_epochs": 12}), workdir=path, tracker=RecordingTracker())
    return path


def test_a_run_is_measured_on_every_corruption_and_says_so(folder, capsys):
    assert main(["--workdir", str(folder), "--corruptions", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tree = json.loads((folder / "evaluation/test/corruptions.json").read_text())
    assert told["corruptions"] == tree
    assert list(tree["corruptions"]) == list(CORRUPTIONS)
    assert tree["clean"]["error"] == pytest.approx(1 - told["accuracy"])
    errors = [row["error"] for rows in tree["corruptions"].values() for row in rows]
    assert len(errors) == 75
    assert tree["mean_corruption_error"] == pytest.approx(sum(errors) / 75)
    assert tree["mean_corruption_error"] > tree["clean"]["error"]
    assert tree["corruptions"]["contrast"][4]["error"] > tree["clean"]["error"]
