"""Images with several labels: from the table to a trained model."""

import json

import numpy as np
from PIL import Image

from mlvlab_jax import evaluate, train


def test_a_table_of_several_labels_trains_and_is_measured(tmp_path, capsys):
    """Each of three classes lights up its own corner; one image in eight has none."""
    rng, rows = np.random.default_rng(0), []
    for k in range(240):
        pixels = rng.integers(0, 80, (8, 8, 3), np.uint8)
        classes = [c for c in range(3) if k >> c & 1]
        for c in classes:
            top, left = 4 * (c // 2), 4 * (c % 2)
            pixels[top : top + 4, left : left + 4] += 150
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        split = "test" if k % 5 == 0 else "train"
        rows.append({"path": f"{k}.png", "labels": [("red", "green", "blue")[c] for c in classes], "split": split})
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.yaml").write_text(
        "model: {name: cnn, params: {widths: [8]}}\n"
        f"data: {{name: manifest, params: {{path: {tmp_path}/t.jsonl}}}}\n"
        "pipeline: {preprocess: {size: [8, 8]}, augment: {horizontal_flip: false, mixup: {alpha: 0.2}}}\n"
        "evaluation: {metrics: [{name: loss}, {name: accuracy}, {name: mean_average_precision}]}\n"
        "training: {batch_size: 16, num_epochs: 8, learning_rate: 0.02, label_smoothing: 0.05}\n"
        "mesh: {data: 8}\n"
    )
    workdir = tmp_path / "run"
    assert train.main(["--config", str(tmp_path / "c.yaml"), "--workdir", str(workdir)]) == 0
    assert "examples have several labels each; tables and calibration need" in capsys.readouterr().err
    best = json.loads((workdir / "summary.json").read_text())["best"]
    assert best["test/mean_average_precision"] > 0.95
    assert best["test/accuracy"] > 0.8

    assert evaluate.main(["--workdir", str(workdir), "--mirror"]) == 64
    assert evaluate.main(["--workdir", str(workdir), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["num_examples"] == 48
    assert {name: measured[name] for name in ("loss", "accuracy", "mean_average_precision")} == {
        name.removeprefix("test/"): value for name, value in best.items() if name.startswith("test/")
    }
