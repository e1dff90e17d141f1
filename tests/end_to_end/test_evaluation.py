"""One tiny run on a table of images, evaluated at its end and by the command, and compared with an earlier state."""

import json

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax import compare, evaluate, train
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.evaluation.predictions import read_predictions


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """160 images, bright and dark, in a table with a camera and a size; one test image is none."""
    root, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    rows = ["path,label,split,camera,width"]
    for k in range(160):
        noise = rng.integers(0, 160, (8, 8, 3), np.uint8)
        Image.fromarray(noise + np.uint8(60 * (k % 2))).save(root / f"{k}.png")
        split = ("train", "train", "validation", "test")[k // 2 % 4]
        rows.append(f"{k}.png,{('dark', 'bright')[k % 2]},{split},{('left', 'right')[k % 3 == 0]},{100 + k}")
    (root / "6.png").write_bytes(b"")
    (root / "t.csv").write_text("\n".join(rows))
    (root / "c.yaml").write_text(
        "model: {name: cnn, params: {widths: [8]}}\n"
        f"data: {{name: manifest, params: {{path: {root}/t.csv}}}}\n"
        "pipeline: {preprocess: {size: [8, 8]}, max_bad_fraction: 0.1}\n"
        "training: {batch_size: 16, num_epochs: 3, learning_rate: 0.003, early_stopping: {monitor: accuracy, mode: max}}\n"
        "evaluation: {metrics: [{name: loss}, {name: accuracy}, {name: average_precision}]}\n"
        "checkpoint: {keep_last: 3}\n"
        "mesh: {data: 8}\n"
    )
    assert train.main(["--config", str(root / "c.yaml"), "--workdir", str(root / "run")]) == 0
    return root / "run"


def load(run, name="test"):
    return json.loads((run / "evaluation" / name / "evaluation.json").read_text())


def test_training_ends_with_the_evaluation_of_its_best_state(run):
    tree, summary = load(run), json.loads((run / "summary.json").read_text())
    predictions = read_predictions(run / "evaluation" / "test" / "predictions.parquet")
    manifest = json.loads((run / "manifest.json").read_text())
    assert (tree["schema"], tree["split"], tree["checkpoint"]) == (1, "test", "best")
    assert tree["step"] == predictions.step == summary["best"]["step"]
    assert tree["num_examples"] == len(predictions) == 39
    assert not any(name.endswith("/6.png") for name in predictions.ids)
    assert tree["config_hash"] == predictions.config_hash == manifest["config_hash"]
    assert (tree["data"], tree["data_version"]) == (manifest["data"], manifest["data_version"])
    assert tree["class_names"] == ["bright", "dark"]
    for name in ("accuracy", "loss", "average_precision"):
        one = tree["metrics"][name]
        assert one["value"] == pytest.approx(summary["best"][f"test/{name}"], abs=1e-6)
        assert 0 <= one["low"] <= one["value"] <= one["high"]
    assert tree["metrics"]["accuracy"]["method"] == "wilson"
    assert np.sum(tree["confusion"]) == 39
    assert np.trace(tree["confusion"]) == predictions.correct.sum() == round(39 * tree["metrics"]["accuracy"]["value"])
    assert 0 < summary["seconds"]["analyse"] < summary["seconds"]["total"]


def test_slices_are_those_of_the_table(run):
    slices, predictions = load(run)["slices"], read_predictions(run / "evaluation" / "test" / "predictions.parquet")
    assert slices.keys() == {"camera", "brightness"}  # width has too many values to be asked for by itself
    numbers = np.array([int(name.rsplit("/", 1)[1][:-4]) for name in predictions.ids])
    for row, side in zip(slices["camera"], (numbers % 3 > 0, numbers % 3 == 0), strict=True):
        assert (row["count"], row["accuracy"]) == (side.sum(), pytest.approx(predictions.correct[side].mean()))
    assert sum(row["count"] for row in slices["brightness"]) == 39
    assert len(slices["brightness"]) == 5


def test_the_temperature_is_fitted_on_validation_and_measured_on_test(run, capsys):
    calibration = load(run)["calibration"]
    assert evaluate.main(["--workdir", str(run), "--split", "validation"]) == 0
    printed = capsys.readouterr().out
    validation = read_predictions(run / "evaluation" / "validation" / "predictions.parquet")
    if validation.correct.all():
        assert calibration["temperature"] is calibration["after"] is None
    else:
        best = min(np.geomspace(0.02, 50, 4000), key=lambda t: nll(validation.logits / t, validation.label))
        assert calibration["temperature"] == pytest.approx(best, rel=0.01)
        assert calibration["fitted_on"] == "validation"
        assert calibration["after"]["nll"] != calibration["before"]["nll"]
    assert load(run, "validation")["calibration"]["temperature"] is None
    assert "calibration: no temperature" in printed


def nll(logits, label):
    shifted = logits - logits.max(1, keepdims=True)
    return (np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(label)), label]).mean()


def test_the_command_writes_the_same_and_says_it(run, tmp_path, capsys):
    earlier = load(run)
    assert evaluate.main(["--workdir", str(run), "--slice", "width", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert again["slices"].keys() == {"width", "brightness"}
    assert {**again, "slices": 0} == {**earlier, "slices": 0}
    for expected in ("39 examples, 2 classes", "95 % interval", "wilson", "worst classes", "width", str(tmp_path)):
        assert expected in printed
    assert evaluate.main(["--workdir", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["accuracy"] == earlier["metrics"]["accuracy"]["value"]
    assert shown["intervals"]["loss"] == [earlier["metrics"]["loss"][end] for end in ("low", "high")]


def test_two_states_are_compared_from_their_files(run, capsys):
    first = min(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    assert evaluate.main(["--workdir", str(run), "--checkpoint", str(first), "--json"]) == 0
    other = run / "evaluation" / f"test-{first}"
    capsys.readouterr()
    assert compare.main([str(other), str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    a, b = (read_predictions(folder / "predictions.parquet") for folder in (other, run / "evaluation" / "test"))
    assert found["difference"] == pytest.approx(b.correct.mean() - a.correct.mean())
    assert found["only_b"] == (b.correct & ~a.correct).sum()
    assert compare.main([str(other), str(run)]) == 0
    printed = capsys.readouterr().out
    assert f"exact McNemar p = {found['p_value']:.3g}" in printed
    assert found["verdict"] in printed


def test_what_cannot_be_done_is_one_message(run, tmp_path, capsys):
    for arguments, code, expected in (
        (["--workdir", str(run), "--slice", "camra"], 64, "--slice 'camra': no such column of the split; did you mean"),
        (["--workdir", str(run), "--split", "tset"], 64, "--split 'tset': there is no such split"),
    ):
        assert evaluate.main(arguments) == code
        assert expected in capsys.readouterr().err
    assert compare.main([str(run), str(tmp_path)]) == 65
    assert "write them with mlvlab evaluate" in capsys.readouterr().err
    assert read_config(run).evaluation.batch_size == 512
