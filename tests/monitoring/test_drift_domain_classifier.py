import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from mlvlab_jax.monitoring.drift.domain_classifier import compute_auc, score_folds, whiten


def draw(seed=0, num=400):
    rng = np.random.default_rng(seed)
    in_window = rng.random((1, num)) < 0.3
    rows = rng.normal(size=(num, 6)) * [5, 2, 1, 1, 0.1, 0.01] + in_window[0][:, None] * [0, 1, 0.5, 0, 0, 0]
    return rows.astype(np.float32), in_window


def test_whitened_rows_have_the_identity_as_covariance_and_no_empty_direction():
    rows, _ = draw()
    with_empty = np.concatenate([rows, rows[:, :2], np.full((len(rows), 1), 3, np.float32)], axis=1)
    for found in (whiten(rows), whiten(with_empty)):
        np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(6), atol=2e-2)


def test_the_discriminant_is_that_of_scikit_learn():
    rows, in_window = draw()
    scores = score_folds(whiten(rows), in_window, num_folds=5)[0]
    for fold in np.array_split(np.arange(len(rows)), 5):
        train = np.setdiff1d(np.arange(len(rows)), fold)
        fitted = LinearDiscriminantAnalysis().fit(rows[train], in_window[0][train])
        assert np.corrcoef(fitted.decision_function(rows[fold]), scores[fold])[0, 1] > 0.98


def test_no_score_depends_on_the_labels_of_its_own_fold():
    rows, in_window = draw()
    flipped = in_window.copy()
    flipped[:, :80] = ~flipped[:, :80]
    before, after = (score_folds(whiten(rows), labels, num_folds=5) for labels in (in_window, flipped))
    np.testing.assert_array_equal(before[:, :80], after[:, :80])
    assert not np.array_equal(before[:, 80:], after[:, 80:])


def test_the_area_is_that_of_scikit_learn():
    rows, in_window = draw()
    assert compute_auc(rows[:, 1][None], in_window)[0] == pytest.approx(roc_auc_score(in_window[0], rows[:, 1]))
