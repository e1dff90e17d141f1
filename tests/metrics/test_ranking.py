import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn import metrics as sk

from mlvlab_jax.metrics.ranking import (
    bound_auroc_error,
    bound_average_precision_error,
    compute_auroc,
    compute_average_precision,
    count_by_score,
)
from tests.metrics.cases import cases, kept, make, measure

SCORES = {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}


def per_class(which, case):
    """(k) by scikit-learn, nan where a class has no positives (or, for AUROC, no negatives); and support."""
    logits, labels = kept(case)
    scores = log_softmax(logits, axis=1)
    values = []
    for c in range(scores.shape[1]):
        truth = labels == c
        undefined = not truth.any() or (which == "auroc" and truth.all())
        values.append(np.nan if undefined else SCORES[which](truth, scores[:, c]))
    return np.array(values), np.bincount(labels, minlength=scores.shape[1])


@pytest.mark.parametrize("which", SCORES)
@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_exact_form_equals_scikit_learn_with_ties_and_absent_classes(which, case):
    values, support = per_class(which, case)
    np.testing.assert_allclose(measure(make(which, average="none"), case)[f"{which}_per_class"], values, atol=1e-9)
    defined = np.isfinite(values)
    macro = values[defined].mean() if defined.any() else np.nan
    np.testing.assert_allclose(measure(make(which), case)[which], macro, atol=1e-9)
    weights = support * defined
    weighted = np.nansum(values * weights) / weights.sum() if weights.any() else np.nan
    np.testing.assert_allclose(measure(make(which, average="weighted"), case)[f"{which}_weighted"], weighted, atol=1e-9)


def test_macro_auroc_is_scikit_learns_one_against_rest():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 4, 200)
    p = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    for average in ("macro", "weighted"):
        expected = sk.roc_auc_score(labels, p, multi_class="ovr", average=average)
        found = measure(make("auroc", average=average), (logits, labels, np.ones(200), [200]))
        assert next(iter(found.values())) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("which", SCORES)
@pytest.mark.parametrize("num_bins", [2, 8, 1024])
@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_streaming_form_is_within_the_bound_it_states(which, num_bins, case):
    expected, _ = per_class(which, case)
    found = measure(make(which, average="none", method="streaming", num_bins=num_bins), case)
    value, bound = found[f"{which}_per_class"], found[f"{which}_per_class_max_error"]
    np.testing.assert_array_equal(np.isnan(value), np.isnan(expected))
    defined = np.isfinite(expected)
    assert (np.abs(value - expected)[defined] <= bound[defined] + 1e-9).all()
    mean = measure(make(which, method="streaming", num_bins=num_bins), case)
    if defined.any():
        assert abs(mean[which] - expected[defined].mean()) <= mean[f"{which}_max_error"] + 1e-9


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=1, max_size=14), st.integers(1, 6))
def test_the_bounds_hold_for_any_scores_put_in_bins(rows, width):
    score, positive = (np.array(column) for column in zip(*rows, strict=True))
    exact, binned = (count_by_score(s, positive) for s in (score, score // width))
    for compute, bound in (
        (compute_auroc, bound_auroc_error),
        (compute_average_precision, bound_average_precision_error),
    ):
        difference, largest = abs(compute(*exact) - compute(*binned)), bound(*binned)
        assert np.isnan(difference) == np.isnan(largest)
        assert not difference > largest + 1e-12


def test_the_default_bins_are_near_on_scores_of_a_network():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 5000)
    logits = rng.normal(size=(5000, 10)).astype(np.float32) * 3
    logits[np.arange(5000), labels] += 4
    case = logits, labels, np.ones(5000), [5000]
    for which in SCORES:
        exact, near = measure(make(which), case), measure(make(which, method="streaming"), case)
        assert near[f"{which}_max_error"] < 0.01
        assert abs(near[which] - exact[which]) < 2e-3


def test_auroc_and_average_precision_by_hand():
    score, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    counts = count_by_score(score, positive)
    assert compute_auroc(*counts) == (1 + 0.5 + 1 + 1) / 4
    assert compute_average_precision(*counts) == pytest.approx((1 + 2 / 3) / 2)
