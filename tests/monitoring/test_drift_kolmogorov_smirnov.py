import numpy as np
import pytest
from scipy.stats import ks_2samp

from mlvlab_jax.monitoring.drift.kolmogorov_smirnov import compare


def test_the_gap_and_its_chance_are_those_of_the_exact_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=900), rng.normal(0.12, 1, 500)
    exact = ks_2samp(ours, theirs, method="exact")
    p_value, effect = compare(ours, theirs)
    assert effect == exact.statistic
    assert p_value == pytest.approx(exact.pvalue, rel=0.1)


def test_sizes_that_repeat_are_compared_as_they_are():
    ours, theirs = np.repeat([240.0, 480.0], [300, 700]), np.repeat([240.0, 480.0, 720.0], [150, 250, 100])
    p_value, effect = compare(ours, theirs)
    assert effect == pytest.approx(0.2)  # above 480: none of ours, a fifth of theirs
    assert p_value < 1e-10


def test_ties_make_false_alarms_rarer_never_more_frequent():
    rng = np.random.default_rng(1)
    p_values = np.array([compare(rng.integers(0, 4, 800), rng.integers(0, 4, 500))[0] for _ in range(400)])
    assert (p_values <= 0.05).mean() < 0.05
