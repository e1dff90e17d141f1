import numpy as np
import pytest
from scipy.stats import chi2

from mlvlab_jax.monitoring.drift.chi_square import compare
from mlvlab_jax.monitoring.drift.counts import pool_rare


def test_two_classes_by_hand():
    """300 and 700 against 250 and 250: of 1,500, 550 and 950; expected 366.67, 633.33, 183.33, 316.67."""
    p_value, effect = compare(np.array([[300, 700], [250, 250]]))
    expected = 66.667**2 * (1 / 366.667 + 1 / 633.333 + 1 / 183.333 + 1 / 316.667)
    assert p_value == pytest.approx(chi2.sf(expected, 1), rel=1e-3)
    assert effect == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("counts", "pooled"),
    [
        ([[10, 90], [10, 90]], [[90, 10], [90, 10]]),
        # 5 are expected in each row of a class with 10 in both together; the last three have 6, 3 and 3.
        ([[80, 14, 4, 1, 1], [80, 14, 2, 2, 2]], [[80, 14, 6], [80, 14, 6]]),
        ([[90, 8, 2], [90, 8, 2]], [[90, 10], [90, 10]]),  # two are too few: they join the class before
        ([[100, 0, 0], [98, 1, 1]], [[100], [100]]),
        ([[0, 0], [0, 0]], [[0], [0]]),
    ],
)
def test_rare_classes_are_put_together(counts, pooled):
    np.testing.assert_array_equal(pool_rare(np.array(counts)), pooled)


def test_of_many_rare_classes_many_groups_are_left():
    counts = np.stack([np.full(1000, 3), np.full(1000, 1)])
    pooled = pool_rare(counts)
    assert pooled.shape == (2, 200)
    np.testing.assert_array_equal(pooled, np.broadcast_to([[15], [5]], (2, 200)))
    assert compare(counts)[0] == pytest.approx(1)


def test_a_thousand_classes_raise_no_more_false_alarms_than_ten():
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(1000))
    draws = (np.stack([rng.multinomial(3000, prior), rng.multinomial(500, prior)]) for _ in range(600))
    p_values = np.array([compare(counts)[0] for counts in draws])
    assert 0.02 < (p_values <= 0.05).mean() < 0.09
    assert (p_values <= 0.001).sum() <= 4
