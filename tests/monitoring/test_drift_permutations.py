import numpy as np
import pytest
from scipy.stats import gamma

from mlvlab_jax.monitoring.drift.permutations import compute_p_value


def test_the_share_of_draws_counts_the_observed_one():
    assert compute_p_value(np.array([90.0, *range(100)])) == 11 / 101
    assert compute_p_value(np.zeros(200)) == 1.0


@pytest.mark.parametrize("p_value", [1e-3, 1e-4, 1e-6])
def test_the_tail_beyond_the_draws_is_told_within_a_factor_of_three(p_value):
    found = []
    for seed in range(40):
        drawn = gamma.rvs(4, size=500, random_state=seed)
        found.append(compute_p_value(np.array([gamma.isf(p_value, 4), *drawn])))
    assert 1 / 3 < np.exp(np.mean(np.log(found))) / p_value < 3


def test_beyond_all_draws_a_p_value_is_small_and_not_zero_share():
    drawn = np.random.default_rng(0).normal(size=500)
    assert 0 < compute_p_value(np.array([8.0, *drawn])) < 1e-8
