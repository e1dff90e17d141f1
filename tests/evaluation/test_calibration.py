import numpy as np
import pytest

from mlvlab_jax.evaluation.calibration import (
    draw_calibrated,
    fit_temperature,
    measure_calibration,
    scale_logits,
    sum_equal_mass,
)
from tests.evaluation.synthetic import from_logits, make_predictions


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_is_recovered_within_two_percent(temperature):
    predictions = make_predictions(40_000, sharpness=temperature)
    assert fit_temperature(predictions) == pytest.approx(temperature, rel=0.02)
    before = measure_calibration(predictions)
    after = measure_calibration(scale_logits(predictions, fit_temperature(predictions)))
    assert after.nll <= before.nll
    assert after.ece < 0.01


def test_no_temperature_fits_where_nothing_is_wrong():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert fit_temperature(from_logits(logits, np.array([0, 1, 2, 0]))) is None
    # One of four wrong: 4 log(exp(1/T) + 2) - 3/T is least where exp(1/T) is 6.
    assert fit_temperature(from_logits(logits, np.array([0, 1, 2, 1]))) == pytest.approx(1 / np.log(6), rel=1e-4)


def test_calibration_error_by_hand():
    """Two classes; confidences 0.55 (right), 0.65 (wrong), 0.9 (right), 0.91 (wrong): bins 8, 9 and 13."""
    confidence = np.array([0.55, 0.65, 0.9, 0.91])
    logits = np.log(np.stack([confidence, 1 - confidence], 1)).astype(np.float32)
    found = measure_calibration(from_logits(logits, np.array([0, 1, 0, 1])))
    assert found.ece == pytest.approx((0.45 + 0.65 + abs(1 - 0.9 - 0.91)) / 4, abs=1e-6)
    assert found.brier == pytest.approx(2 * np.mean([0.45**2, 0.65**2, 0.1**2, 0.91**2]), abs=1e-6)
    assert found.nll == pytest.approx(-np.mean(np.log([0.55, 0.35, 0.9, 0.09])), abs=1e-6)
    filled = [(at, row["count"]) for at, row in enumerate(found.bins) if row["count"]]
    assert filled == [(8, 1), (9, 1), (13, 2)]
    assert found.bins[13] == {
        "low": pytest.approx(13 / 15),
        "high": pytest.approx(14 / 15),
        "count": 2,
        "confidence": pytest.approx(0.905, abs=1e-6),
        "accuracy": 0.5,
    }


def test_bins_of_equal_mass_by_numpy():
    rng = np.random.default_rng(0)
    for num in (4, 15, 31, 400):
        confidence, gap = rng.random(num), rng.normal(size=num)
        ordered = gap[np.argsort(confidence)]
        expected = sum(abs(part.sum()) for part in np.array_split(ordered, 15))
        assert sum_equal_mass(np.ones((1, num)), gap, confidence)[0] == pytest.approx(expected)


def test_a_calibrated_model_shows_the_errors_that_are_drawn_for_it():
    drawn = draw_calibrated(make_predictions(2000), num_draws=200)
    shown = np.array([measure_calibration(make_predictions(2000, seed=seed)).ece for seed in range(40)])
    assert drawn["ece"].mean() == pytest.approx(shown.mean(), rel=0.15)
    assert drawn["adaptive_ece"].min() > 0
