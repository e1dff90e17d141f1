import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mlvlab_jax.monitoring.drift.mmd import compute_kernel, compute_mmd
from mlvlab_jax.monitoring.drift.permutations import pool
from mlvlab_jax.plugins import DRIFT_TESTS, Spec
from tests.monitoring.synthetic import draw_reference, draw_window


def test_the_kernel_is_gaussian_with_the_median_distance():
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    distance = cdist(rows, rows, "sqeuclidean")
    expected = np.exp(-distance / (2 * np.median(distance[::5, ::5])))
    np.testing.assert_allclose(compute_kernel(rows), expected * (1 - np.eye(60)), atol=1e-5)


def test_the_discrepancy_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(1, 1, (20, 2))
    pooled = pool(y, x, num_permutations=5, max_examples=100)
    kernel = compute_kernel(pooled.rows)
    for found, mask in zip(compute_mmd(kernel, pooled.in_window), pooled.in_window, strict=True):
        within, others = kernel[np.ix_(mask, mask)], kernel[np.ix_(~mask, ~mask)]
        expected = within.sum() / (12 * 11) + others.sum() / (20 * 19) - 2 * kernel[np.ix_(mask, ~mask)].mean()
        assert found == pytest.approx(expected, abs=1e-5)


def test_another_spread_about_the_same_centre_is_seen():
    rng = np.random.default_rng(0)
    reference = draw_reference(rng, 1000)
    window = draw_window(rng, reference)
    test = DRIFT_TESTS.build(Spec("mmd", DRIFT_TESTS.entry("mmd").params()), reference=reference)
    (same,) = test.measure(window)
    (wider,) = test.measure(window._replace(embedding=window.embedding * 1.5))
    assert same.p_value > 0.001
    assert wider.p_value < 1e-5


def test_pooled_rows_keep_their_label_and_no_more_than_asked():
    ours, theirs = np.zeros((900, 2)), np.ones((700, 2))
    rows, in_window = pool(ours, theirs, num_permutations=3, max_examples=800)
    assert rows.shape == (1500, 2)
    np.testing.assert_array_equal(rows[in_window[0]], 1)
    np.testing.assert_array_equal(rows[~in_window[0]], 0)
    np.testing.assert_array_equal(in_window.sum(1), 700)
    assert len(np.unique(in_window, axis=0)) == 4
