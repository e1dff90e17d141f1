import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.metrics import MetricsComputer

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 100, 1000)
LOGITS = RNG.normal(size=(1000, 100)) + 4.5 * (np.arange(100) == LABELS[:, None])


def batches(*arrays):
    for start in range(0, 1000, 32):
        yield tuple(array[start : start + 32] for array in arrays)


def truth(guess, **options):
    scores = {"precision": sk.precision_score, "recall": sk.recall_score}
    found = {n: f(LABELS, guess, average="macro", zero_division=0.0, **options) for n, f in scores.items()}
    return found | {"accuracy": sk.accuracy_score(LABELS, guess)}


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, list])
def test_the_epoch_is_measured_as_a_whole_and_not_as_the_mean_of_batches(convert):
    computer = MetricsComputer()
    for outputs, targets in batches(LOGITS.astype(np.float32), LABELS):
        computer.update(convert(outputs), convert(targets))
    found = computer.compute_epoch()
    assert found == pytest.approx(truth(LOGITS.argmax(1)), abs=1e-6)
    per_batch = [
        sk.precision_score(t, o.argmax(1), average="macro", labels=np.arange(100), zero_division=0.0)
        for o, t in batches(LOGITS, LABELS)
    ]
    assert np.mean(per_batch) < found["precision"] / 2
    assert computer.compute_epoch() == {}


def test_class_ids_need_no_number_of_classes():
    computer, guess = MetricsComputer(), LOGITS.argmax(1)
    for outputs, targets in batches(guess, LABELS):
        computer.update(outputs, targets)
    assert computer.compute_epoch() == pytest.approx(truth(guess), abs=1e-9)
    known = MetricsComputer(["recall"], num_classes=200)
    known.update(guess, LABELS)
    assert known.compute_epoch()["recall"] == pytest.approx(truth(guess)["recall"] / 2)


def test_class_ids_are_certain_predictions():
    computer = MetricsComputer(["loss", "brier", "ece"])
    computer.update(np.array([0, 1, 2]), np.array([0, 1, 2]))
    assert computer.compute_epoch() == {"loss": 0, "brier": 0, "ece": 0}
    computer.update(np.array([0, 1]), np.array([0, 0]))
    assert computer.compute_epoch() == {"loss": np.inf, "brier": 1, "ece": 0.5}


def test_metrics_are_those_of_the_configuration():
    computer = MetricsComputer([{"name": "top_k", "params": {"k": 3}}, "confusion_matrix"])
    computer.update(LOGITS, LABELS)
    found = computer.compute_epoch()
    assert found.keys() == {"top_3", "confusion_matrix"}
    assert found["confusion_matrix"].trace() == (LOGITS.argmax(1) == LABELS).sum()
    several = MetricsComputer(["multilabel_accuracy"])
    several.update(np.array([[1.0, -1.0]]), np.array([[1, 0]]))
    assert several.compute_epoch() == {"multilabel_accuracy": 1.0}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("precison", "unknown metric 'precison'; did you mean 'precision'"),
        ({"name": "precision", "params": {"average": "mean"}}, "average: .*'macro'"),
    ],
)
def test_metrics_that_are_none_are_refused(metric, message):
    with pytest.raises(ConfigError, match=message):
        MetricsComputer([metric])


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (
            np.zeros((2, 3)),
            np.zeros((2, 3), int),
            r"targets are int64 \(2, 3\) for outputs \(2, 3\); expected .*\(2,\)",
        ),
        (np.zeros((2, 3)), np.zeros(2), "targets are float64"),
        (np.zeros((2, 3)), np.array([0, 3]), "class ids run from 0 to 3; expected whole numbers from 0 to 2"),
        (np.array([-1, 0]), np.zeros(2, int), "class ids run from -1 to 0"),
        (np.zeros(2), np.zeros(2, int), "outputs are float64"),
        (np.zeros((2, 3, 1)), np.zeros(2, int), "outputs are float64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(outputs, targets, message):
    with pytest.raises(DataError, match=message):
        MetricsComputer().update(outputs, targets)


def test_the_number_of_classes_may_not_change():
    computer = MetricsComputer()
    computer.update(np.zeros((2, 3)), np.zeros(2, int))
    with pytest.raises(DataError, match=r"\(2, 4\); expected logits \(b, 3\)"):
        computer.update(np.zeros((2, 4)), np.zeros(2, int))
