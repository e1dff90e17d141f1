"""What features tell: a linear probe, nearest neighbours and few shots, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from mlvlab_jax.evaluation import probe as module
from mlvlab_jax.evaluation.probe import Features, learn_from_few, probe_linearly, vote_of_neighbours


def draw(rng, n, centers, *, scale=1.0):
    label = rng.integers(0, len(centers), n).astype(np.int32)
    value = centers[label] + scale * rng.normal(size=(n, centers.shape[1]))
    return Features((value * 3 + 5).astype(np.float32), label)


@pytest.fixture(scope="module")
def splits():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 12))
    return [draw(rng, n, centers, scale=1.3) for n in (600, 300, 400)]


def test_a_linear_probe_is_the_regression_of_scikit_learn(splits, monkeypatch):
    train, validation, test = splits
    monkeypatch.setattr(module, "PENALTIES", (1e-2,))
    found = probe_linearly(*splits, num_classes=4)
    mean, std = train.value.mean(0), train.value.std(0)
    # Its C weighs the sum of the losses against half the squared weights.
    peer = LogisticRegression(C=1 / (2 * 1e-2 * len(train.label)), tol=1e-8, max_iter=1000)
    peer.fit((train.value - mean) / std, train.label)
    assert found.accuracy == pytest.approx(peer.score((test.value - mean) / std, test.label), abs=0.003)
    assert found.validated == pytest.approx(peer.score((validation.value - mean) / std, validation.label), abs=0.004)
    assert found.penalty == 1e-2
    assert found.accuracy > 0.7


def test_the_penalty_is_chosen_on_the_validation_split():
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(3, 60)) * 0.4
    train, validation, test = (draw(rng, n, centers) for n in (60, 2000, 2000))
    found = probe_linearly(train, validation, test, num_classes=3)
    assert found.penalty > 1e-4  # few examples of many dims want a strong one
    assert found.accuracy == pytest.approx(found.validated, abs=0.03)


def test_neighbours_vote_as_scikit_learn_has_them(splits):
    train, _, test = splits
    unit = [split.value / np.linalg.norm(split.value, axis=1, keepdims=True) for split in (train, test)]
    # Of unit vectors the cosine is 1 - distance**2 / 2.
    peer = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute")
    peer.fit(unit[0], train.label)
    assert vote_of_neighbours(train, test, num_classes=4) == pytest.approx(peer.score(unit[1], test.label), abs=0.003)


def test_few_shots_are_a_ridge_regression_and_more_of_them_tell_more(splits):
    train, _, test = splits
    found = learn_from_few(train, test, shots=(1, 5, 100), num_classes=4)
    assert [len(values) for values in found.values()] == [3, 3, 3]
    assert np.mean(found[1]) < np.mean(found[5]) < np.mean(found[100])
    rows = np.arange(200)
    weights = module._solve_ridge(train.value[rows], train.label[rows], 4)
    inputs = module._with_bias(train.value[rows], train.value[rows])
    peer = Ridge(alpha=2.0**10, fit_intercept=False, solver="cholesky")
    peer.fit(inputs, 2.0 * (train.label[rows][:, None] == np.arange(4)) - 1)
    np.testing.assert_allclose(weights, peer.coef_.T, atol=1e-6)
    few = module._solve_ridge(train.value[:5], train.label[:5], 4)
    np.testing.assert_allclose(few, _primal(train.value[:5], train.label[:5]), atol=1e-9)


def _primal(value, label):
    inputs = module._with_bias(value, value).astype(np.float64)
    targets = 2.0 * (label[:, None] == np.arange(4)) - 1
    return np.linalg.solve(inputs.T @ inputs + 2.0**10 * np.eye(inputs.shape[1]), inputs.T @ targets)
