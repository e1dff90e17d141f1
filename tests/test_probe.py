"""The command that probes a network's features."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.evaluation.features import extract_features
from mlvlab_jax.probe import main

TREE = {
    "model": {"name": "cnn", "params": {"widths": [4]}},
    "data": {"name": "synthetic", "params": {"num_train": 60, "num_test": 20, "height": 8, "width": 8, "channels": 1}},
}


def test_features_are_what_the_last_layer_is_given_of_every_example_without_augmentation():
    config = config_from_tree(TREE | {"pipeline": {"augment": {"horizontal_flip": True}}})
    found, notes, num_classes = extract_features(config)
    assert notes == ["weights: null; the features are those of a network that has learnt nothing"]
    assert {name: len(split.label) for name, split in found.items()} == {"train": 54, "validation": 6, "test": 20}
    experiment = make_experiment(config)
    split = experiment.data.splits["test"]
    image = jnp.asarray(split.fetch(split.ids).image / 127.5 - 1, jnp.float32)
    _, expected = experiment.model.describe(experiment.state.variables, image)
    np.testing.assert_allclose(found["test"].value, expected, atol=1e-5)
    assert found["test"].label.tolist() == split.source.labels[split.ids].tolist()
    assert num_classes == len(experiment.data.class_names)


def test_the_command_prints_what_it_measured(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(TREE))
    assert main(["--config", str(path), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["num_features"] == 4
    assert set(tree["few_shot"]) == {"1", "5", "10", "25"}
    assert 0 <= tree["linear"]["accuracy"] <= 1
    assert main(["--config", str(path)]) == 0
    told = capsys.readouterr().out
    assert "4 features of 54 train, 6 validation, 20 test examples" in told
    assert f"{tree['neighbours']['accuracy']:.4f}" in told


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["pipeline.validation_fraction=0"], "there is no validation split; expected train, validation, test"),
        (["weights={path: nowhere.safetensors}"], "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_probed_is_said(changes, expected, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(TREE))
    assert main(["--config", str(path), *changes]) in (64, 65)
    assert expected in capsys.readouterr().err


def test_unreadable_images_are_left_out_and_told(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        for index in range(12):
            folder = tmp_path / name / "ab"[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "test/a/0.png").write_bytes(b"no image")
    data = {"name": "image_folder", "params": {"path": str(tmp_path)}}
    found, notes, _ = extract_features(
        config_from_tree(TREE | {"data": data, "pipeline": {"preprocess": {"size": [8, 8]}}})
    )
    assert len(found["test"].label) == 11
    assert any("1 examples are unreadable and were left out, such as" in line and "0.png" in line for line in notes)
