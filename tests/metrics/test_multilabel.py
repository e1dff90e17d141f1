import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import expit
from sklearn import metrics as sk

from tests.metrics.cases import cases, kept, make, measure

SCORES = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}


@settings(deadline=None, max_examples=60)
@given(cases(labels="labels"))
def test_subset_accuracy_equals_scikit_learn(case):
    logits, labels = kept(case)
    for threshold in (0.5, 0.7):
        expected = sk.accuracy_score(labels, expit(logits) >= threshold)
        found = measure(make("multilabel_accuracy", threshold=threshold), case)
        assert found["multilabel_accuracy"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("which", SCORES)
@settings(deadline=None, max_examples=30)
@given(case=cases(labels="labels"))
def test_precision_recall_and_f1_equal_scikit_learn(which, case):
    logits, labels = kept(case)
    for average, zero_division in (("macro", 0), ("micro", 1), ("weighted", 0), ("none", "nan")):
        metric = make(f"multilabel_{which}", average=average, zero_division=zero_division, threshold=0.3)
        sk_average = None if average == "none" else average
        expected = SCORES[which](labels, expit(logits) >= 0.3, average=sk_average, zero_division=float(zero_division))
        np.testing.assert_allclose(measure(metric, case)[metric.name], expected, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(cases(labels="labels"))
def test_mean_average_precision_equals_scikit_learn_on_labels_that_occur(case):
    logits, labels = kept(case)
    there = [c for c in range(logits.shape[1]) if labels[:, c].any()]
    expected = np.mean([sk.average_precision_score(labels[:, c], logits[:, c]) for c in there]) if there else 0
    found = measure(make("mean_average_precision"), case)["mean_average_precision"]
    assert found == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(cases(labels="labels"))
def test_loss_and_accuracy_take_several_labels_too(case):
    logits, labels = kept(case)
    scores = expit(logits.astype(np.float64))
    losses = [sk.log_loss(labels[:, k], scores[:, k], labels=[0, 1]) for k in range(labels.shape[1])]
    assert measure(make("loss"), case)["loss"] == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-6)
    assert measure(make("accuracy"), case)["accuracy"] == pytest.approx(
        sk.accuracy_score(labels, logits > 0), abs=1e-12
    )
