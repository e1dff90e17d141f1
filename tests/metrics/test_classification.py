import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import log_softmax
from sklearn import metrics as sk

from tests.metrics.cases import cases, kept, make, measure

AVERAGES = ("macro", "micro", "weighted", "none")
SCORES = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}


def only(results):
    assert len(results) == 1
    return next(iter(results.values()))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_loss_and_accuracy_equal_numpy(case):
    logits, labels = kept(case)
    log_p = log_softmax(logits, axis=1)
    np.testing.assert_allclose(
        only(measure(make("loss"), case)),
        sk.log_loss(labels, np.exp(log_p), labels=np.arange(logits.shape[1])),
        rtol=1e-6,
    )
    assert only(measure(make("accuracy"), case)) == pytest.approx(
        sk.accuracy_score(labels, logits.argmax(1)), abs=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(cases())
def test_confusion_matrix_equals_scikit_learn(case):
    logits, labels = kept(case)
    found = only(measure(make("confusion_matrix"), case))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(
        found, sk.confusion_matrix(labels, logits.argmax(1), labels=np.arange(logits.shape[1]))
    )


@pytest.mark.parametrize("which", SCORES)
@pytest.mark.parametrize("zero_division", [0, 1, "nan"])
@settings(deadline=None, max_examples=25)
@given(case=cases())
def test_precision_recall_and_f1_equal_scikit_learn(which, zero_division, case):
    logits, labels = kept(case)
    for average in AVERAGES:
        found = only(measure(make(which, average=average, zero_division=zero_division), case))
        expected = SCORES[which](
            labels,
            logits.argmax(1),
            labels=np.arange(logits.shape[1]),
            average=None if average == "none" else average,
            zero_division=float(zero_division),
        )
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=average)


def test_names_say_the_average():
    found = [make("precision", average=average).name for average in AVERAGES]
    assert found == ["precision", "precision_micro", "precision_weighted", "precision_per_class"]
    assert [make("f1", average=average).result for average in AVERAGES] == ["scalar"] * 3 + ["array"]


@settings(deadline=None, max_examples=60)
@given(cases())
def test_top_k_counts_labels_above_all_but_k_minus_one_others(case):
    logits, labels = kept(case)
    for k in (1, 2, 9):
        above = [(row >= row[label]).sum() <= k for row, label in zip(logits, labels, strict=True)]
        assert only(measure(make("top_k", k=k), case)) == pytest.approx(np.mean(above), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_equal_logits_and_no_numbers_are_no_right_guess_for_top_k(value):
    logits = np.full((1, 6), value, np.float32)
    assert only(measure(make("top_k", k=5), (logits, np.zeros(1, np.int32), np.ones(1), [1]))) == 0


def test_one_class_and_no_examples():
    one = np.zeros((3, 1), np.float32), np.zeros(3, np.int32), np.ones(3), [3]
    assert measure(make("recall"), one) == {"recall": 1.0}
    assert measure(make("loss"), one) == {"loss": 0.0}
    nothing = one[0], one[1], np.zeros(3), [3]
    assert np.isnan(measure(make("accuracy"), nothing)["accuracy"])
    assert measure(make("precision"), nothing) == {"precision": 0.0}


def test_labels_in_masked_rows_may_be_anything_in_range():
    logits = np.array([[2, 0, 0], [np.nan, 0, 0]], np.float32)
    case = logits, np.array([0, 2], np.int32), np.array([1.0, 0.0]), [2]
    assert measure(make("loss"), case)["loss"] == pytest.approx(np.log(1 + 2 * np.exp(-2)), rel=1e-6)
    assert only(measure(make("confusion_matrix"), case)).sum() == 1
