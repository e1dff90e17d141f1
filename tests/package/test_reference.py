"""The reference of a package: of which examples, what is measured of them, and what is refused."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from mlvlab_jax.data.statistics import describe_images
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.load import load_package
from mlvlab_jax.package.reference import list_values
from tests.package.folders import sign_again
from tests.package.trained import TODAY


@pytest.fixture(scope="module")
def opened(made):
    return load_package(made, today=TODAY)


@pytest.fixture(scope="module")
def validation(workdir):
    split = make_experiment(read_config(workdir)).data.splits["validation"]
    return split.source.fetch(split.ids)


def test_the_reference_is_what_the_model_says_of_the_validation_split(opened, validation):
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
    order, found_order = np.argsort(expected["brightness"]), np.argsort(reference.values["brightness"])
    for name, values in expected.items():
        assert reference.values[name].dtype == np.float32
        np.testing.assert_allclose(
            reference.values[name][found_order], values[order], rtol=1e-5, atol=1e-4, err_msg=name
        )
    np.testing.assert_array_equal(reference.label[found_order], validation.label[order])
    np.testing.assert_array_equal(reference.prediction[found_order], logits.argmax(1)[order])
    np.testing.assert_allclose(reference.embedding[found_order], opened.reference.project(embedding)[order], atol=1e-5)
    assert opened.temperature != 1
    assert np.ptp(reference.values["confidence"]) > 0


def test_a_package_without_a_reference_is_refused_and_says_what_to_do(package):
    (package / "reference.safetensors").unlink()
    sign_again(package)
    with pytest.raises(PackageError, match="lacks .'reference.safetensors'.*package the run again"):
        load_package(package, today=TODAY)
