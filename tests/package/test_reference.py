"""The reference of a package: of which examples, what is measured of them, and what is refused."""

import dataclasses
import logging

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.decomposition import PCA

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.statistics import describe_images
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.errors import DataError, NonFiniteError, PackageError
from mlvlab_jax.package import build
from mlvlab_jax.package.build import describe_held_out
from mlvlab_jax.package.load import load_package
from mlvlab_jax.package.reference import (
    fit_projection,
    list_values,
    make_reference,
    measure_values,
    read_reference,
    write_reference,
)
from mlvlab_jax.plugins import SOURCES, Spec
from tests.package.folders import sign_again
from tests.package.trained import TODAY


@pytest.fixture(scope="module")
def opened(made):
    return load_package(made, today=TODAY)


@pytest.fixture(scope="module")
def validation(workdir):
    split = make_experiment(read_config(workdir)).data.splits["validation"]
    return split.source.fetch(split.ids)


def test_the_reference_is_what_the_model_says_of_the_validation_split(opened, validation, made):
    reference = opened.reference
    logits, embedding = opened.predict(validation.image)
    assert (reference.split, len(reference)) == ("validation", 8)
    assert set(reference.values) == set(list_values(1))
    probabilities = softmax(logits.astype(float) / opened.temperature, axis=1)
    expected = {
        **describe_images(validation.image),
        "height_px": np.full(8, 8),
        "width_px": np.full(8, 8),
        "aspect": np.ones(8),
        "confidence": probabilities.max(1),
        "entropy": entropy(probabilities, axis=1),
    }
    order, found = np.argsort(expected["brightness"]), np.argsort(reference.values["brightness"])
    for name, values in expected.items():
        assert reference.values[name].dtype == np.float32
        np.testing.assert_allclose(reference.values[name][found], values[order], rtol=1e-5, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(reference.label[found], validation.label[order])
    np.testing.assert_array_equal(reference.prediction[found], logits.argmax(1)[order])
    np.testing.assert_allclose(reference.embedding[found], reference.project(embedding)[order], atol=1e-5)
    assert reference.embedding.shape == (8, 7)
    assert "with 8 images of split `validation`" in (made / "README.md").read_text()
    assert opened.temperature != 1
    assert np.ptp(reference.values["confidence"]) > 0


def test_a_package_without_a_reference_is_refused_and_says_what_to_do(package):
    (package / "reference.safetensors").unlink()
    sign_again(package)
    with pytest.raises(PackageError, match=r"lacks .'reference.safetensors'.*package the run again"):
        load_package(package, today=TODAY)


def draw_embedding(n, d, *, seed=0):
    """Embeddings of directions of unequal variance."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, d)) * 1.5 ** -np.arange(d) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (mixed + rng.normal(size=d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d", "p"), [(500, 12, 12), (300, 20, 20), (10, 16, 9), (2, 5, 1), (200, 1, 1)])
def test_directions_are_those_of_scikit_learn_up_to_sign(n, d, p):
    embedding = draw_embedding(n, d)
    center, projection = fit_projection(embedding)
    oracle = PCA(p, svd_solver="full").fit(embedding.astype(np.float64))
    assert projection.shape == (d, p)
    np.testing.assert_allclose(center, oracle.mean_, atol=1e-5)
    np.testing.assert_allclose(np.abs((projection.T * oracle.components_).sum(1)), 1, rtol=1e-5)
    assert (np.take_along_axis(projection, np.abs(projection).argmax(0)[None], 0) > 0).all()
    reference = make_example(embedding)
    expected = np.abs(oracle.transform(embedding.astype(np.float64)))
    np.testing.assert_allclose(np.abs(reference.embedding), expected, atol=1e-4)
    np.testing.assert_array_equal(reference.project(embedding[:1])[0], reference.embedding[0])


def test_directions_do_not_depend_on_the_order_of_the_examples():
    embedding = draw_embedding(100, 8)
    for found, expected in zip(fit_projection(embedding[::-1]), fit_projection(embedding), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_more_directions_are_kept_than_there_are_with_variance():
    wide = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    assert fit_projection(wide)[1].shape == (64, 32)
    flat = draw_embedding(100, 6) * np.array([1, 1, 0, 1, 0, 0], np.float32)
    assert fit_projection(flat)[1].shape == (6, 3)
    for same in (np.ones((1, 4), np.float32), np.ones((9, 4), np.float32)):
        _, projection = fit_projection(same)
        assert projection.shape == (4, 1)
        np.testing.assert_allclose((projection**2).sum(0), 1, rtol=1e-6)
        assert make_example(same).embedding.tolist() == [[0.0]] * len(same)


def make_example(embedding, *, channels=1):
    n = len(embedding)
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 6, channels), np.uint8)
    values = measure_values(images, sizes_px=np.full((n, 2), [40, 60]), probabilities=np.full((n, 2), 0.5))
    label = np.arange(n) % 2
    return make_reference(split="test", values=values, prediction=label, label=1 - label, embedding=embedding)


def test_values_are_measured_as_stored_and_calibrated():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    probabilities = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float32)
    values = measure_values(images, sizes_px=np.array([[30, 60], [np.nan, np.nan]]), probabilities=probabilities)
    assert tuple(values) == list_values(3)
    assert {array.dtype for array in values.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(values["aspect"], [2, np.nan])
    np.testing.assert_array_equal(values["height_px"], [30, np.nan])
    np.testing.assert_array_equal(values["confidence"], [0.5, 1])
    np.testing.assert_allclose(values["entropy"], [np.log(2), 0], rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_reference_reads_back_as_it_was_written(channels, tmp_path):
    reference = make_example(draw_embedding(10, 16), channels=channels)
    for name in ("a", "b"):
        write_reference(tmp_path / name, reference)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = read_reference(tmp_path / "a", num_classes=2, num_channels=channels)
    assert (back.split, back.values.keys()) == ("test", reference.values.keys())
    for name, values in reference.values.items():
        np.testing.assert_array_equal(back.values[name], values, strict=True)
    for name in ("prediction", "label", "embedding", "center", "projection"):
        np.testing.assert_array_equal(getattr(back, name), getattr(reference, name), strict=True)


def put(name, array):
    return lambda arrays: arrays.update({name: array})


CHANGES = {
    "no label": (lambda arrays: arrays.pop("label"), "expected .*'label': .'int32', .10,"),
    "no embeddings": (lambda arrays: arrays.pop("projection"), "expected .*'projection'"),
    "more": (put("loader", np.zeros(10, np.float32)), "holds .*'loader'"),
    "wide": (put("values/brightness", np.zeros(10)), "holds .*'values/brightness': .'float64'"),
    "short": (put("values/brightness", np.zeros(9, np.float32)), "holds .*'values/brightness': .'float32', .9,"),
    "scalar": (put("prediction", np.array(1, np.int32)), "holds .*'prediction'"),
    "of one channel": (lambda arrays: arrays.pop("values/mean_2"), "expected .*'values/mean_2'"),
    "of other classes": (put("label", np.full(10, 2, np.int32)), r"label is 2\.\.2; expected 0\.\.1"),
    "below the classes": (put("prediction", np.full(10, -1, np.int32)), r"prediction is -1\.\.-1; expected 0\.\.1"),
    "not finite": (put("values/entropy", np.full(10, np.nan, np.float32)), "'values/entropy'. are not finite"),
    "of other widths": (put("center", np.zeros(3, np.float32)), "'center': .'float32', .3,"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_reference_of_something_else_is_refused(name, tmp_path):
    change, expected = CHANGES[name]
    write_reference(tmp_path / "file", make_example(draw_embedding(10, 16), channels=3))
    arrays = safetensors.numpy.load_file(tmp_path / "file")
    change(arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "file", metadata={"split": "test"})
    with pytest.raises(PackageError, match=expected) as caught:
        read_reference(tmp_path / "file", num_classes=2, num_channels=3)
    assert "\n" not in str(caught.value)


def test_a_reference_of_too_many_or_of_no_named_examples_is_refused(tmp_path):
    write_reference(tmp_path / "many", make_example(np.zeros((5001, 2), np.float32)))
    write_reference(tmp_path / "unnamed", dataclasses.replace(make_example(draw_embedding(10, 4)), split=""))
    for name in ("many", "unnamed"):
        with pytest.raises(PackageError, match="of a named split"):
            read_reference(tmp_path / name, num_classes=2, num_channels=1)


def test_a_signed_reference_of_another_network_is_refused(package):
    reference = load_package(package, today=TODAY).reference
    narrow = dataclasses.replace(reference, center=reference.center[:3], projection=reference.projection[:3])
    write_reference(package / "reference.safetensors", narrow)
    sign_again(package)
    with pytest.raises(PackageError, match=r"'float32', \(16,\).*expected .*'float32', \(3,\)"):
        load_package(package, today=TODAY)


def fake_predict(image):
    """Two logits and three embeddings, told from the pixels."""
    brightness = image.mean((1, 2, 3)).astype(np.float32)
    return np.stack([brightness, 128 - brightness], 1), np.stack([brightness, brightness**2, -brightness], 1)


def open_folder(path, *, splits=("train", "test"), per_class=20, **pipeline):
    rng = np.random.default_rng(0)
    for split in splits:
        for k in range(2 * per_class):
            file = path / split / ("cat", "dog")[k % 2] / f"{k:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (10 + k, 30, 3), np.uint8)).save(file)
    tree = {"preprocess": {"size": [8, 8]}, "validation_fraction": 0.0} | pipeline
    source = Spec("image_folder", params_from(SOURCES.entry("image_folder").params, {"path": str(path)}))
    return open_data(source, params_from(PipelineConfig, tree), seed=0)


@pytest.mark.parametrize("max_memory_mib", [0, 1], ids=["streamed", "in memory"])
def test_sizes_are_those_of_the_files_and_unreadable_ones_are_left_out(max_memory_mib, tmp_path):
    data = open_folder(tmp_path, max_memory_mib=max_memory_mib)
    (tmp_path / "test/cat/000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = open_folder(tmp_path, splits=(), max_memory_mib=max_memory_mib)
    reference = describe_held_out(fake_predict, data, temperature=2.0)
    assert (reference.split, len(reference)) == ("test", 39)
    assert sorted(reference.values["height_px"].tolist()) == list(range(11, 50))
    assert set(reference.values["width_px"].tolist()) == {30}
    np.testing.assert_allclose(reference.values["aspect"], 30 / reference.values["height_px"])
    assert np.bincount(reference.label).tolist() == [19, 20]
    assert ((reference.values["height_px"] % 2 == 1) == reference.label).all()
    brightness = np.stack([reference.values[f"mean_{k}"] for k in range(3)]).mean(0)
    gap = np.abs(2 * brightness - 128) / 2.0
    np.testing.assert_allclose(reference.values["confidence"], 1 / (1 + np.exp(-gap)), rtol=1e-3)


def test_the_validation_split_comes_first_and_of_a_large_one_a_fixed_draw(tmp_path, monkeypatch):
    data = open_folder(tmp_path, validation_fraction=0.5)
    monkeypatch.setattr(build, "MAX_EXAMPLES", 17)
    first, again = (describe_held_out(fake_predict, data, temperature=1.0) for _ in range(2))
    assert (first.split, len(first)) == ("validation", 17)
    assert len(set(first.values["height_px"].tolist())) == 17
    np.testing.assert_array_equal(first.values["height_px"], again.values["height_px"])


def test_without_held_out_data_training_examples_are_taken_with_a_warning(tmp_path, caplog):
    data = open_folder(tmp_path, splits=("train",), per_class=3)
    with caplog.at_level(logging.WARNING):
        reference = describe_held_out(fake_predict, data, temperature=1.0)
    assert (reference.split, len(reference)) == ("train", 6)
    assert "made of training examples" in caplog.text


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    def predict(image):
        logits, embedding = fake_predict(image)
        return logits, embedding / 0

    with pytest.raises(NonFiniteError, match="split 'test': some embeddings"), np.errstate(divide="ignore"):
        describe_held_out(predict, open_folder(tmp_path, per_class=2), temperature=1.0)


def test_a_split_without_a_readable_image_is_refused(tmp_path):
    open_folder(tmp_path, per_class=2)
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="split 'test': no image could be read"):
        describe_held_out(fake_predict, open_folder(tmp_path, splits=()), temperature=1.0)
