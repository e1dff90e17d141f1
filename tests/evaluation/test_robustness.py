"""Accuracy and calibration of a run on corrupted images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.data.corruptions import CORRUPTIONS
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.restored import restore_checkpoint
from mlvlab_jax.evaluate import main
from mlvlab_jax.evaluation.predictions import read_predictions
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


def test_the_mean_with_mirror_images_is_that_and_lies_in_a_folder_of_its_own(folder, capsys):
    assert main(["--workdir", str(folder), "--json"]) == 0
    assert main(["--workdir", str(folder), "--mirror", "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == 2
    plain, mirrored = (
        read_predictions(folder / f"evaluation/{name}/predictions.parquet") for name in ("test", "test-mirrored")
    )
    experiment = make_experiment(read_config(folder))
    _, restored, state = restore_checkpoint(folder, read_config(folder), "best")
    split = experiment.data.splits["test"]
    image = jnp.asarray(split.fetch(plain.index).image[:, :, ::-1] / 127.5 - 1, jnp.float32)
    other, _ = restored.model.apply(state.evaluated, image, jax.random.key(0), False)
    np.testing.assert_allclose(mirrored.logits, (plain.logits + other) / 2, atol=1e-4)
    assert np.abs(mirrored.logits - plain.logits).max() > 1e-2
