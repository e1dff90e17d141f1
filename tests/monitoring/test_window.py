import numpy as np
import pytest

from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.monitoring.window import make_window
from tests.monitoring.synthetic import NUM_FEATURES, draw_reference


def observe(item, size_px, probabilities):
    image = np.full((4, 4, 1), 10 * item, np.uint8)
    embedding = np.full(NUM_FEATURES, item, np.float32)
    return Observation("r", item, image, size_px, np.array(probabilities, np.float32), embedding, 0.01, "v", 0.0)


def test_observations_are_described_as_the_reference_is():
    reference = draw_reference(np.random.default_rng(0), 200)
    window = make_window([observe(1, (20, 40), [0.5, 0.5]), observe(2, None, [0.0, 1.0])], reference)
    expected = {
        "brightness": [10, 20],
        "contrast": [0, 0],
        "height_px": [20, np.nan],
        "width_px": [40, np.nan],
        "aspect": [2, np.nan],
        "confidence": [0.5, 1],
        "entropy": [np.log(2), 0],
    }
    for name, values in expected.items():
        assert window.values[name].dtype == np.float32
        np.testing.assert_allclose(window.values[name], values, rtol=1e-6, err_msg=name)
    assert window.prediction.dtype == np.int32
    assert window.prediction.tolist() == [0, 1]
    raw = np.array([[1.0] * NUM_FEATURES, [2.0] * NUM_FEATURES])
    np.testing.assert_allclose(window.embedding, (raw - reference.center) @ reference.projection, rtol=1e-4)
    assert window.embedding[0] == pytest.approx(reference.project(raw[:1])[0])
