import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import softmax
from sklearn import metrics as sk

from mlvlab_jax.metrics.calibration import bin_by_mass, bin_by_width, compute_confidence, compute_ece
from tests.metrics.cases import cases, kept, make, measure

CONFIDENCE = np.array([0.3, 0.45, 0.5, 0.55, 0.8, 1.0])
RIGHT = np.array([True, False, True, True, True, False])


def test_ece_by_hand():
    # (0, 0.5]: 2 of 3 right at 0.41666; (0.5, 1]: 2 of 3 right at 0.78333
    bins = bin_by_width(CONFIDENCE, RIGHT, np.ones(6, bool), num_bins=2)
    assert bins["count"].tolist() == [3, 3]
    assert bins["right"].tolist() == [2, 2]
    assert compute_ece(bins) == pytest.approx((abs(2 - 1.25) + abs(2 - 2.35)) / 6)
    # two of a kind: (0.3, 0.45), (0.5, 0.55), (0.8, 1.0)
    assert compute_ece(bin_by_mass(CONFIDENCE, RIGHT, num_bins=3)) == pytest.approx((0.25 + 0.95 + 0.8) / 6)
    assert np.isnan(compute_ece(bin_by_width(CONFIDENCE, RIGHT, np.zeros(6, bool), num_bins=2)))


def test_adaptive_groups_differ_by_one_and_do_not_depend_on_the_order_of_ties():
    confidence, right = np.array([0.5] * 5 + [0.9, 0.9]), np.array([1, 0, 0, 1, 0, 1, 0], bool)
    order = np.random.default_rng(0).permutation(7)
    bins = bin_by_mass(confidence, right, num_bins=3)
    assert bins["count"].tolist() == [3, 2, 2]
    np.testing.assert_allclose(bins["right"], [1.2, 0.8, 1.0])
    again = bin_by_mass(confidence[order], right[order], num_bins=3)
    assert all(np.array_equal(bins[name], again[name]) for name in bins)
    assert bin_by_mass(confidence, right, num_bins=50)["count"].tolist() == [1] * 7


@settings(deadline=None, max_examples=80)
@given(cases())
def test_ece_equals_a_loop_over_bins(case):
    logits, labels = kept(case)
    found = compute_confidence(logits.astype(np.float32), labels)
    confidence, right = found["confidence"].astype(np.float64), found["right"]
    np.testing.assert_allclose(confidence, softmax(logits, axis=1).max(1), rtol=1e-6)
    expected = 0.0
    for i in range(15):
        rows = (found["confidence"] * 15 > i) & (found["confidence"] * 15 <= i + 1)
        expected += abs(right[rows].sum() - confidence[rows].sum()) / len(labels)
    assert measure(make("ece"), case)["ece"] == pytest.approx(expected, abs=1e-6)
    assert 0 <= measure(make("ece", binning="adaptive"), case)["adaptive_ece"] <= 1


@settings(deadline=None, max_examples=60)
@given(cases())
def test_adaptive_ece_without_ties_equals_sorted_groups(case):
    logits, labels = kept(case)
    logits = logits + np.random.default_rng(0).normal(size=logits.shape)
    found = compute_confidence(logits, labels)
    order = np.argsort(found["confidence"])
    gaps = [abs((found["right"][g] * 1.0 - found["confidence"][g]).sum()) for g in np.array_split(order, 5)]
    case = logits, labels, np.ones(len(labels)), [len(labels)]
    value = measure(make("ece", binning="adaptive", num_bins=5), case)["adaptive_ece"]
    assert value == pytest.approx(sum(gaps) / len(labels), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_brier_equals_scikit_learn(case):
    logits, labels = kept(case)
    p = softmax(logits, axis=1)
    expected = sk.brier_score_loss(labels, p, labels=np.arange(p.shape[1]), scale_by_half=False)
    assert measure(make("brier"), case)["brier"] == pytest.approx(expected, abs=1e-6)
