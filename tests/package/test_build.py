"""From a run to a package and back, with the network itself as the oracle."""

import datetime
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mlvlab_jax.config.load import compute_hash
from mlvlab_jax.data.augment import normalize
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.errors import CheckpointError, ConfigError, PackageError
from mlvlab_jax.package import build
from mlvlab_jax.package.build import make_profile, write_package
from mlvlab_jax.package.load import load_package, verify_files
from mlvlab_jax.package.members import MEMBERS
from mlvlab_jax.trees import named_leaves
from tests.package.trained import TODAY


@pytest.fixture(scope="module")
def trained(workdir):
    """The experiment, and the state of its best checkpoint as the training code restores it."""
    config = read_config(workdir)
    experiment = make_experiment(config)
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode="min") as store:
        step = store.resolve("best")
        return config, experiment, store.restore(step, experiment.state, experiment.layout)[0], step


def test_the_package_gives_the_logits_of_the_run(made, trained):
    config, experiment, state, _ = trained
    image = experiment.data.splits["test"].source.fetch(np.arange(20)).image
    expected, _ = experiment.model.apply(
        state.evaluated, normalize(jnp.asarray(image), config.pipeline), jax.random.key(0), False
    )
    package = load_package(made)
    assert package.source == "export"
    assert np.ptp(expected) > 0.1
    for batch in (1, 3, 20):
        np.testing.assert_allclose(package.predict_logits(image[:batch]), expected[:batch], atol=1e-5)


def test_the_weights_are_those_of_the_average_and_the_statistics_bit_for_bit(made, trained):
    _, _, state, _ = trained
    packed = safetensors.numpy.load_file(made / "model.safetensors")
    expected = dict(named_leaves(jax.device_get(state.ema)))
    assert packed.keys() == expected.keys()
    assert any(name.startswith("state/") for name in packed)
    for name, array in packed.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)
    plain = dict(named_leaves(jax.device_get(state.variables)))
    assert any((packed[name] != plain[name]).any() for name in packed)


def test_the_manifest_says_where_the_model_comes_from(made, workdir, trained):
    config, _, state, step = trained
    manifest = verify_files(made)
    assert manifest.files.keys() | {"manifest.json"} == MEMBERS.keys()
    assert (manifest.name, manifest.run.step, manifest.run.config_hash) == ("tiny", step, compute_hash(config))
    assert manifest.data == json.loads((workdir / "manifest.json").read_text())["data"]
    params = jax.tree.leaves(state.variables.params)
    assert (manifest.model.name, manifest.model.num_params) == ("cnn", sum(math.prod(p.shape) for p in params))
    best = json.loads((workdir / "summary.json").read_text())["best"]
    evaluation = json.loads((workdir / "evaluation/test/evaluation.json").read_text())
    assert manifest.metrics["validation/loss"] == best["validation/loss"]
    measured = {f"test/{name}": one["value"] for name, one in evaluation["metrics"].items()}
    assert len(measured) > 1
    assert manifest.metrics.items() >= measured.items()
    assert manifest.metrics["test/accuracy"] == pytest.approx(best["test/accuracy"], abs=1e-6)
    saved = datetime.datetime.fromisoformat(manifest.created)
    assert abs(saved.timestamp() - (workdir / "checkpoints" / str(step)).stat().st_mtime) < 30


def test_the_same_run_gives_the_same_bytes(made, workdir, tmp_path):
    again = write_package(workdir, out=tmp_path / "again", today=TODAY)
    names = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert [path for path in names if (made / path).read_bytes() != (again / path).read_bytes()] == []
    assert sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file()) == names


def test_golden_images_and_the_reference_profile_are_of_the_data(made, trained):
    _, experiment, _, _ = trained
    golden = safetensors.numpy.load_file(made / "golden.safetensors")
    test = experiment.data.splits["test"].source.fetch(np.arange(20)).image
    assert golden["image"].shape == (16, 8, 8, 1)
    known = {image.tobytes() for image in test}
    assert len({image.tobytes() for image in golden["image"]} & known) == 16
    train = experiment.data.train
    pixels = train.source.fetch(train.ids)
    profile = load_package(made).profile
    np.testing.assert_array_equal(profile.pixels[0], np.bincount(pixels.image.ravel(), minlength=256))
    np.testing.assert_array_equal(profile.labels, np.bincount(pixels.label, minlength=len(profile.labels)))


def test_the_profile_of_a_large_split_is_of_a_fixed_draw(trained, monkeypatch):
    train = trained[1].data.train
    monkeypatch.setattr(build, "_MAX_PROFILED", 30)
    monkeypatch.setattr(build, "_CHUNK", 7)
    first, again = (make_profile(train, num_classes=10) for _ in range(2))
    assert first.num_images == 30
    assert first.to_json() == again.to_json()


def test_nothing_in_a_package_says_where_it_was_made(made, workdir):
    for name in MEMBERS:
        data = (made / name).read_bytes()
        assert str(workdir).encode() not in data
        assert b".py\x00" not in data
        assert str(build.__file__).rpartition("/")[0].encode() not in data


EVALUATION = {
    "schema": 1,
    "checkpoint": "best",
    "split": "test",
    "num_examples": 20,
    "config_hash": "0" * 64,
    "data": {},
    "data_version": [],
    "metrics": {
        "accuracy": {"value": 0.75, "low": 0.53125, "high": 0.875, "method": "wilson"},
        "loss": {"value": float("inf"), "low": 0.5, "high": 1.0, "method": "bootstrap"},
    },
    "confusion": [],
    "calibration": {
        "temperature": 2.5,
        "fitted_on": "validation",
        "before": {"nll": 1.0, "ece": 0.25, "adaptive_ece": 0.26, "brier": 0.5, "bins": []},
        "after": {"nll": 0.9, "ece": 0.125, "adaptive_ece": 0.13, "brier": 0.4, "bins": []},
    },
    "slices": {"camera": [{"value": "old | <b>", "count": 5, "accuracy": 0.4, "low": 0.1, "high": 0.7}]},
    "mistakes": [],
}


@pytest.fixture
def evaluated(workdir, trained, tmp_path):
    """A copy of the run with an evaluation of its best checkpoint."""
    names = list(trained[1].data.class_names)
    row = {"predicted": 2, "precision": 0.5, "f1": 0.5, "recall_low": 0.1, "recall_high": 0.9}
    per_class = [{"name": name, "support": 2, "recall": 0.9 - i / 20, **row} for i, name in enumerate(names)]
    folder = shutil.copytree(workdir, tmp_path / "evaluated", ignore=shutil.ignore_patterns("package"))
    (folder / "evaluation/test").mkdir(parents=True, exist_ok=True)
    tree = EVALUATION | {"step": trained[3], "class_names": names, "per_class": per_class}
    (folder / "evaluation/test/evaluation.json").write_text(json.dumps(tree))
    (folder / "evaluation/test/predictions.parquet").write_bytes(b"PAR1")
    return folder


def test_what_was_evaluated_goes_with_the_model(evaluated, trained):
    path = write_package(evaluated, today=TODAY, name="m")
    package = load_package(path)
    assert package.temperature == 2.5
    assert (path / "evaluation/predictions.parquet").read_bytes() == b"PAR1"
    assert package.manifest.metrics["test/accuracy"] == 0.75
    assert package.manifest.metrics["test/loss"] is None
    image = np.zeros((1, 8, 8, 1), np.uint8)
    scaled = np.exp(package.predict_logits(image).astype(np.float64) / 2.5)
    np.testing.assert_allclose(package.predict_probabilities(image), scaled / scaled.sum(), rtol=1e-5)
    card = (path / "README.md").read_text()
    names = trained[1].data.class_names
    for expected in (
        "| test/accuracy | 0.7500 | 0.5312 to 0.8750 |",
        "| test/loss | not finite |",
        f"| {names[-1]} | 2 | {0.9 - (len(names) - 1) / 20:.3f} [0.100, 0.900] | 0.500 |",
        "temperature 2.5000, fitted on validation",
        "| with temperature | 0.9000 | 0.1250 | 0.1300 | 0.4000 |",
        "| camera | old \\| \\<b\\> | 5 | 0.400 [0.100, 0.700] |",
    ):
        assert expected in card


def test_without_an_evaluation_of_this_step_one_is_made(evaluated, trained):
    path = evaluated / "evaluation/test/evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 1}))
    out = write_package(evaluated, today=TODAY)
    packed = json.loads((out / "evaluation/evaluation.json").read_text())
    assert (packed["step"], packed["num_examples"]) == (trained[3], 20)
    assert json.loads(path.read_text()) == packed
    assert "0.7500 | 0.5312" not in (out / "README.md").read_text()


def test_an_evaluation_of_another_checkpoint_lies_in_a_folder_of_its_own_and_is_found(evaluated, trained):
    (evaluated / "evaluation/test").rename(evaluated / f"evaluation/test-{trained[3]}")
    out = write_package(evaluated, today=TODAY)
    assert load_package(out).temperature == 2.5


def test_a_class_name_cannot_be_markup():
    from mlvlab_jax.package.card import _text

    assert _text("a|b\n# <script>`x`") == "a\\|b \\# \\<script\\>\\`x\\`"


def test_a_request_that_cannot_be_met_leaves_nothing(made, workdir, tmp_path, monkeypatch):
    before = sorted(workdir.iterdir())
    with pytest.raises(ConfigError, match="exists already"):
        write_package(workdir, today=TODAY)
    with pytest.raises(ConfigError, match="--name '../up'"):
        write_package(workdir, out=tmp_path / "out", name="../up", today=TODAY)
    with pytest.raises(ConfigError, match="no config.yaml"):
        write_package(tmp_path, out=tmp_path / "out", today=TODAY)
    with pytest.raises(CheckpointError, match="no checkpoint of step 999"):
        write_package(workdir, checkpoint=999, out=tmp_path / "out", today=TODAY)

    def refuse(*args, **kwargs):
        raise PackageError("golden outputs differ")

    monkeypatch.setattr(build, "load_package", refuse)
    with pytest.raises(PackageError, match="golden"):
        write_package(workdir, out=tmp_path / "out", today=TODAY)
    assert list(tmp_path.iterdir()) == []
    assert sorted(workdir.iterdir()) == before
