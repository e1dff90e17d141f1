import numpy as np
import pytest
from scipy.stats import chi2

from mlvlab_jax.monitoring.drift.psi import compare


def test_the_index_by_hand():
    """Halves of the reference, a quarter and three quarters of the window, a half added to each count."""
    ours, theirs = np.arange(1000.0), np.repeat([0.0, 999.0], [100, 300])
    shares = np.array([100.5, 300.5]) / 401
    index = ((shares - 0.5) * np.log(shares / 0.5)).sum()
    p_value, effect = compare(ours, theirs, num_bins=2)
    assert effect == pytest.approx(index, rel=1e-9)
    assert p_value == pytest.approx(chi2.sf(index / (1 / 400 + 1 / 1000), 1), rel=1e-9)


def test_the_critical_value_holds_where_a_rule_of_thumb_does_not():
    """PSI over 0.1 is a false alarm in two windows of five at 100 examples; over the critical value in one of twenty."""
    rng = np.random.default_rng(0)
    found = np.array([compare(rng.normal(size=5000), rng.normal(size=100), num_bins=10) for _ in range(1000)])
    assert (found[:, 1] > 0.1).mean() > 0.25
    assert 0.03 < (found[:, 0] <= 0.05).mean() < 0.075


def test_values_that_repeat_take_fewer_bins():
    rng = np.random.default_rng(0)
    sizes = np.array([240.0, 480.0, 720.0])
    found = [compare(rng.choice(sizes, 2000), rng.choice(sizes, 500), num_bins=10)[0] for _ in range(500)]
    assert 0.02 < (np.array(found) <= 0.05).mean() < 0.085
    assert compare(np.full(600, 240.0), np.full(500, 240.0), num_bins=10) == (1.0, 0.0)
    assert compare(np.full(600, 240.0), np.repeat([240.0, 480.0], 250), num_bins=10)[0] < 1e-10
