"""Every registered drift test by its example: it stays quiet without drift, sees a planted one, and takes odd input."""

import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.plugins import DRIFT_TESTS, Spec
from tests.monitoring.synthetic import Shift, draw_reference, draw_window

REFERENCE = draw_reference(np.random.default_rng(0), 600)
LARGEST_EFFECT = {"kolmogorov_smirnov": 1.0, "chi_square": 1.0, "mmd": 2.0, "domain_classifier": 0.5}
NUM_TRIALS = 80


def build(name, reference=REFERENCE):
    entry = DRIFT_TESTS.entry(name)
    return DRIFT_TESTS.build(Spec(name, params_from(entry.params, entry.example)), reference=reference)


@pytest.fixture(params=DRIFT_TESTS.names())
def name(request):
    return request.param


def test_without_drift_p_values_are_at_most_as_small_as_they_say(name):
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(NUM_TRIALS):
        reference = draw_reference(rng, 600)
        p_values += [finding.p_value for finding in build(name, reference).measure(draw_window(rng, reference))]
    p_values = np.array(p_values)
    assert ((p_values >= 0) & (p_values <= 1)).all()
    for level in (0.05, 0.2):  # a share four standard errors of NUM_TRIALS above the level is no accident
        assert (p_values <= level).mean() <= level + 4 * (level * (1 - level) / NUM_TRIALS) ** 0.5
    assert np.median(p_values) < 0.9  # nor is it quiet because it is deaf


def test_a_planted_shift_is_seen(name):
    window = draw_window(np.random.default_rng(2), REFERENCE, shift=Shift(1.0, 0.4, 1.0))
    test = build(name)
    for finding in test.measure(window):
        assert finding.p_value < 1e-4
        assert finding.effect > test.min_effect


def test_it_says_the_same_again(name):
    window = draw_window(np.random.default_rng(3), REFERENCE)
    assert build(name).measure(window) == build(name).measure(window)


def test_effects_are_in_range_however_large_the_shift(name):
    rng = np.random.default_rng(4)
    for shift in (Shift(), Shift(100.0, 1.0, 100.0)):
        for finding in build(name).measure(draw_window(rng, REFERENCE, shift=shift)):
            assert 0 <= finding.effect <= LARGEST_EFFECT.get(name, np.inf)
    if name in LARGEST_EFFECT:
        assert finding.effect > LARGEST_EFFECT[name] / 3


def test_of_nothing_it_says_nothing(name):
    empty = Window(
        {feature: np.zeros(0, np.float32) for feature in REFERENCE.values},
        np.zeros(0, np.int32),
        np.zeros((0, REFERENCE.embedding.shape[1]), np.float32),
    )
    assert build(name).measure(empty) == []


def test_what_is_not_a_number_is_left_out(name):
    window = draw_window(np.random.default_rng(5), REFERENCE)
    unknown = {feature: np.full(500, np.nan, np.float32) for feature in window.values}
    lost = window._replace(values=unknown, embedding=np.full_like(window.embedding, np.nan))
    assert {finding.feature for finding in build(name).measure(lost)} <= {"prediction"}
    some = window.embedding.copy()
    some[::7] = np.nan
    partly = window._replace(
        embedding=some, values={k: np.where(np.arange(500) % 7, v, np.nan) for k, v in window.values.items()}
    )
    findings = build(name).measure(partly)
    assert [f.feature for f in findings] == [f.feature for f in build(name).measure(window)]
    assert all(np.isfinite(finding[1:]).all() and finding.p_value > 1e-4 for finding in findings)


def test_constants_are_no_drift(name):
    same = draw_window(np.random.default_rng(6), REFERENCE)
    ones = {feature: np.ones(500, np.float32) for feature in same.values}
    window = Window(ones, np.ones(500, np.int32), np.ones_like(same.embedding))
    reference = draw_reference(np.random.default_rng(7), 600)
    constant = type(reference)(
        split="test",
        values={feature: np.ones(600, np.float32) for feature in reference.values},
        prediction=np.ones(600, np.int32),
        label=reference.label,
        embedding=np.ones_like(reference.embedding),
        center=reference.center,
        projection=reference.projection,
    )
    findings = build(name, constant).measure(window)
    assert findings
    assert {finding[1:] for finding in findings} == {(1.0, 0.0)}
