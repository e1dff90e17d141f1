"""The command, on requests that a package answered and a recorder kept."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax import shadow
from mlvlab_jax.config.monitoring import RecordingConfig
from mlvlab_jax.monitoring.recorder import Recorder
from mlvlab_jax.package.load import load_package
from mlvlab_jax.registry.file_store import FileStore
from mlvlab_jax.registry.model_registry import ModelRegistry
from mlvlab_jax.registry.policy import PromotionPolicy


def encode(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def recorded(made, tmp_path_factory):
    """Seven requests as the package answers them, and one as it would not."""
    folder = tmp_path_factory.mktemp("recorded")
    package = load_package(made)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    probabilities = package.predict_probabilities(images)
    probabilities[5] = 0
    probabilities[5, probabilities[6].argmin()] = 1
    recorder = Recorder(
        RecordingConfig(folder=str(folder), share=1.0), model="tiny", version="old", class_names=package.class_names
    )
    for number, image in enumerate(images):
        recorder.record(f"id-{number}", "image/png", encode(image), probabilities[number])
    recorder.close()
    return folder


@pytest.fixture(scope="module")
def registry(made, tmp_path_factory):
    place = tmp_path_factory.mktemp("registry")
    registry = ModelRegistry(FileStore(place))
    registry.register(name="digits", version="1.2.0", package=made)
    registry.promote("digits", "1.2.0", alias="challenger", policy=PromotionPolicy(data_version="any"))
    return place


@pytest.mark.parametrize("source", ["package", "version", "alias"])
def test_the_one_request_that_was_answered_otherwise_is_found(recorded, made, registry, source, tmp_path, capsys):
    named = {
        "package": ["--package", str(made)],
        "version": ["--model", "digits:1.2.0", "--registry", str(registry)],
        "alias": ["--model", "digits@challenger", "--registry", str(registry)],
    }[source]
    out = tmp_path / "report.json"
    assert shadow.main(["--recorded", str(recorded), *named, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert (report["model"], report["version"]) == {"package": ("tiny", load_package(made).manifest.sha256[:12])}.get(
        source, ("digits", "1.2.0")
    )
    assert report["recorded"] == {"tiny old": 8}
    assert report["agreement"]["value"] == 7 / 8
    assert report["most_different"][0]["request_id"] == "id-5"
    assert report["most_different"][1]["distance"] < 1e-4
    printed = capsys.readouterr().out
    assert "87.50%, 95 % interval 52.91% to 97.76%" in printed
    assert "id-5" in printed


def test_the_newest_requests_alone_are_replayed(recorded, made, tmp_path):
    out = tmp_path / "report.json"
    arguments = ["--recorded", str(recorded), "--package", str(made), "--limit", "2", "--out", str(out)]
    assert shadow.main(arguments) == 0
    assert [row["request_id"] for row in json.loads(out.read_text())["most_different"]] != ["id-5"]
    assert json.loads(out.read_text())["agreement"]["value"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--recorded", "missing", "--package", "x"], 65, "missing: no recorded requests"),
        (["--recorded", "RECORDED", "--package", "missing"], 65, "missing"),
        (["--recorded", "RECORDED", "--model", "digits"], 65, "expected NAME:VERSION or NAME@ALIAS"),
    ],
)
def test_what_cannot_be_replayed_is_said(recorded, tmp_path, monkeypatch, capsys, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    assert shadow.main([str(recorded) if word == "RECORDED" else word for word in arguments]) == code
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "two"])
def test_a_limit_is_a_number_above_zero(limit, capsys):
    with pytest.raises(SystemExit):
        shadow.main(["--recorded", "a", "--package", "b", f"--limit={limit}"])
    assert "is not a number of requests" in capsys.readouterr().err
