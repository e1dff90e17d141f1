"""From a folder of images to a trained model, with a broken file in it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax import data_page, evaluate, train


@pytest.fixture
def folder(tmp_path):
    """120 images of several sizes and formats in two classes, bright and dark; one is no image."""
    rng = np.random.default_rng(0)
    for k in range(120):
        name = ("bright", "dark")[k % 2]
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(128, 256, (20 + k % 7, 30, 3), np.uint8) // (1 + k % 2)
        Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.{('png', 'JPG', 'webp')[k % 3]}")
    (tmp_path / "images" / "dark" / "7.jpg").write_bytes(b"<html></html>")
    (tmp_path / "c.yaml").write_text(
        "model: {name: cnn, params: {widths: [8]}}\n"
        f"data: {{name: image_folder, params: {{path: {tmp_path}/images}}}}\n"
        "pipeline: {preprocess: {size: [8, 8]}, max_memory_mib: 0}\n"
        "training: {batch_size: 16, num_epochs: 6, learning_rate: 0.01}\n"
        "mesh: {data: 8}\n"
    )
    return tmp_path


def test_a_folder_with_a_broken_file_trains_and_says_so(folder, capsys):
    config, workdir = str(folder / "c.yaml"), folder / "run"
    assert train.main(["--config", config, "--workdir", str(workdir)]) == 0
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["best"]["validation/accuracy"] == 1.0
    assert summary["num_bad_examples"] == 1
    (row,) = map(json.loads, (workdir / "quarantine.jsonl").read_text().splitlines())
    assert row["name"].endswith("dark/7.jpg")
    assert row["reason"].startswith("format: starts with b'<html><")
    records = list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))
    assert all(0 <= record["input_wait"] < 1 for record in records if "input_wait" in record)
    evaluation = json.loads((workdir / "evaluation" / "validation" / "evaluation.json").read_text())
    assert evaluation["num_examples"] == 12
    assert evaluation["slices"].keys() == {"brightness", "size_px"}

    capsys.readouterr()
    assert evaluate.main(["--workdir", str(workdir), "--split", "validation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0


def test_too_many_broken_files_stop_the_run_with_their_names(folder, capsys):
    for k in range(1, 20, 2):
        (folder / "images" / "dark" / f"broken{k}.png").write_bytes(b"")
    assert train.main(["--config", str(folder / "c.yaml"), "--workdir", str(folder / "run")]) == 65
    message = capsys.readouterr().err
    assert re.search(r"error: \d+ of \d+ examples of split 'train' are unreadable", message)
    assert "png: empty: the file has no bytes" in message
    assert "pipeline.max_bad_fraction" in message


def test_the_data_page_shows_examples_and_their_augmentations(folder, capsys):
    page = folder / "page.html"
    args = ["show", "--config", str(folder / "c.yaml"), "--out", str(page), "--num-examples", "6"]
    assert data_page.main([*args, "pipeline.augment.horizontal_flip=true"]) == 0
    text = page.read_text()
    assert text.count("<figure>") == 6
    assert text.count("data:image/png;base64,") == 24
    assert "<b>dark</b>" in text
    assert "bright" in text
    assert "://" not in text
