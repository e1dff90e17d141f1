import numpy as np
import pytest
from scipy.stats import gamma

from mlvlab_jax.monitoring.drift.permutations import compute_p_value, judge


def test_the_share_of_draws_counts_the_observed_one():
    assert compute_p_value(90.0, np.arange(100.0)) == 11 / 101
    assert compute_p_value(0.0, np.zeros(200)) == 1.0


@pytest.mark.parametrize("p_value", [1e-3, 1e-4, 1e-6])
def test_the_tail_beyond_the_draws_is_told_within_a_factor_of_three(p_value):
    found = []
    for seed in range(40):
        drawn = gamma.rvs(4, size=500, random_state=seed)
        found.append(compute_p_value(gamma.isf(p_value, 4), drawn))
    assert 1 / 3 < np.exp(np.mean(np.log(found))) / p_value < 3


def test_beyond_all_draws_the_p_value_is_small_and_not_0():
    drawn = np.random.default_rng(0).normal(size=500)
    assert 0 < compute_p_value(8.0, drawn) < 1e-8


@pytest.mark.parametrize(
    ("observed", "num_asked", "p_value"), [(90, 101, 11 / 101), (95, 501, 26 / 501), (900, 101, 0)]
)
def test_no_more_is_drawn_where_a_hundred_leave_no_doubt(observed, num_asked, p_value):
    """The first of the labels is the truth; the statistic of the others goes through 0 to 99 again and again."""
    labels = np.arange(501)[:, None]
    asked = []

    def measure(labels):
        asked.extend(labels[:, 0])
        return np.where(labels[:, 0] == 0, observed, (labels[:, 0] - 1) % 100)

    found, value = judge(measure, labels)
    assert asked == list(range(num_asked))
    assert value == observed
    assert found == pytest.approx(p_value, abs=1e-12)
