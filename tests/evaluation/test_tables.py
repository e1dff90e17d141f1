import numpy as np
import pytest
from sklearn import metrics as sk

from mlvlab_jax.evaluation.intervals import compute_wilson
from mlvlab_jax.evaluation.tables import count_confusion, describe_classes, list_mistakes
from tests.evaluation.synthetic import from_logits, make_predictions

PREDICTIONS = make_predictions(60, num_classes=12, seed=4)  # class 0 to 11, some rarely taken


def test_the_table_of_classes_is_that_of_scikit_learn():
    confusion = count_confusion(PREDICTIONS)
    label, guess = PREDICTIONS.label, PREDICTIONS.prediction
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(label, guess, labels=range(12)))
    rows = describe_classes(confusion, PREDICTIONS.class_names)
    expected = sk.precision_recall_fscore_support(label, guess, labels=range(12), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose([row[name] for row in rows], values, err_msg=name)
    assert [row["name"] for row in rows] == [f"class {k}" for k in range(12)]
    assert [row["predicted"] for row in rows] == np.bincount(guess, minlength=12).tolist()
    low, high = compute_wilson(np.diag(confusion), confusion.sum(1))
    np.testing.assert_array_equal([(row["recall_low"], row["recall_high"]) for row in rows], np.stack([low, high], 1))


def test_mistakes_come_with_the_most_confident_first():
    mistakes = list_mistakes(PREDICTIONS)
    wrong = np.flatnonzero(~PREDICTIONS.correct)
    assert 5 < len(wrong) <= 24
    assert sorted(row["index"] for row in mistakes) == wrong.tolist()
    assert [row["confidence"] for row in mistakes] == sorted(PREDICTIONS.confidence[wrong].tolist(), reverse=True)
    first = mistakes[0]
    assert first["id"] == f"{first['index']}.png"
    assert first["label"] == PREDICTIONS.label[first["index"]] != first["prediction"]
    assert first["prediction"] == PREDICTIONS.prediction[first["index"]]


def test_at_most_24_mistakes_are_kept_and_none_of_a_perfect_model():
    logits = np.eye(2, dtype=np.float32)[np.zeros(99, int)] * np.arange(1, 100, dtype=np.float32)[:, None] / 50
    assert [row["index"] for row in list_mistakes(from_logits(logits, np.ones(99)))] == list(range(98, 74, -1))
    assert list_mistakes(from_logits(logits, np.zeros(99))) == []


def test_a_class_without_examples_has_an_interval_of_everything():
    row = describe_classes(np.array([[3, 0], [0, 0]]), ("a", "b"))[1]
    assert (row["precision"], row["recall"], row["f1"]) == (0, 0, 0)
    assert (row["recall_low"], row["recall_high"]) == (0, 1)
    assert row["support"] == pytest.approx(0)
