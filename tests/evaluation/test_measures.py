import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.evaluation.calibration import bin_confidence, draw_calibrated
from mlvlab_jax.evaluation.intervals import estimate_error, resample
from mlvlab_jax.evaluation.measures import estimate_metrics, make_measures, make_plugin_measures, measure_auroc
from mlvlab_jax.plugins import METRICS, Spec
from tests.evaluation.synthetic import from_logits, make_predictions

TIED = np.round(make_predictions(300, num_classes=7, seed=5).logits)


@pytest.mark.parametrize(
    "predictions",
    [
        make_predictions(500, num_classes=8, seed=1),
        make_predictions(60, num_classes=20, seed=2),  # classes that never occur
        make_predictions(400, num_classes=2, seed=3),
        from_logits(TIED, np.arange(300) % 7),
    ],
    ids=["many", "few", "two classes", "ties"],
)
def test_values_are_those_of_scikit_learn(predictions):
    found = {name: estimate.value for name, estimate in estimate_metrics(predictions, {}).items()}
    label, guess, probability = predictions.label, predictions.prediction, np.exp(predictions.log_probability)
    num_classes = probability.shape[1]
    kwargs = {"labels": range(num_classes), "average": "macro", "zero_division": 0}
    onehot = np.eye(num_classes)[label]
    inside = [k for k in range(num_classes) if 0 < onehot[:, k].sum() < len(label)]
    expected = {
        "accuracy": sk.accuracy_score(label, guess),
        "loss": sk.log_loss(label, probability, labels=range(num_classes)),
        "brier": ((probability - onehot) ** 2).sum(1).mean(),
        "precision": sk.precision_score(label, guess, **kwargs),
        "recall": sk.recall_score(label, guess, **kwargs),
        "f1": sk.f1_score(label, guess, **kwargs),
        "auroc": np.mean([sk.roc_auc_score(onehot[:, k], predictions.log_probability[:, k]) for k in inside]),
    }
    if num_classes > 5:
        expected["top_5"] = (
            np.sort(-predictions.logits, 1)[:, 4] >= -predictions.logits[range(len(label)), label]
        ).mean()
    for name, value in expected.items():
        if name == "top_5" and predictions.logits is TIED:
            continue  # ties count against the label here
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert found.keys() - expected.keys() == {"ece", "adaptive_ece"}
    for name, spec in (("ece", {}), ("adaptive_ece", {"binning": "adaptive"})):
        metric = METRICS.build(Spec("ece", params_from(METRICS.entry("ece").params, spec)))
        trained = metric.from_model_output(logits=predictions.logits.astype(np.float64), labels=label).compute()
        assert found[name] == pytest.approx(trained, abs=1e-9)


def test_an_example_that_counts_twice_is_one_that_is_there_twice():
    predictions = make_predictions(200, num_classes=6, seed=7)
    drawn = np.sort(np.random.default_rng(1).integers(0, 200, 200))
    weights = np.bincount(drawn, minlength=200)[None].astype(float)
    twice = from_logits(predictions.logits[drawn], predictions.label[drawn])
    for name, measure in make_measures(predictions).items():
        expected = make_measures(twice)[name](np.ones((1, 200)))
        np.testing.assert_allclose(measure(weights), expected, atol=1e-12, err_msg=name)


def test_a_class_that_drops_out_of_a_resample_is_left_out_there():
    predictions = from_logits(np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array([0, 1, 2, 1]))
    weights = np.array([[1.0, 1, 1, 1], [2, 2, 0, 0]])
    np.testing.assert_allclose(make_measures(predictions)["recall"](weights), [(1 + 0.5 + 1) / 3, 1.0])


def test_one_class_alone_has_no_roc_area():
    assert "auroc" not in make_measures(from_logits(np.eye(3, dtype=np.float32), np.zeros(3)))
    two = measure_auroc(from_logits(np.eye(3, dtype=np.float32), np.array([0, 0, 1])))
    np.testing.assert_array_equal(two(np.array([[1.0, 2, 0]])), 0.5)


def test_a_plugin_has_an_interval_too():
    predictions = make_predictions(80, num_classes=4)
    specs = [
        Spec(n, params_from(METRICS.entry(n).params, p)) for n, p in (("top_k", {"k": 2}), ("confusion_matrix", {}))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        more = make_plugin_measures(specs, predictions)
    assert list(more) == ["top_2"]
    estimate = estimate_metrics(predictions, more)["top_2"]
    right = (np.sort(predictions.logits, 1)[:, -2] <= predictions.logits[range(80), predictions.label]).mean()
    assert estimate.value == pytest.approx(right)
    assert right - 0.15 < estimate.low < right < estimate.high < right + 0.15


def test_intervals_cover_the_truth():
    """Loss, Brier score, F1 and ROC area of a model with some hundred mistakes: 300 draws, 300 resamples each."""
    truth = {n: m(np.ones((1, 200_000)))[0] for n, m in make_measures(make_predictions(200_000, seed=99)).items()}
    names = ("loss", "brier", "f1", "recall")
    inside = dict.fromkeys(names, 0)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(500, np.full(500, 1 / 500), size=300).astype(float)
    for seed in range(300):
        measures = make_measures(make_predictions(500, seed=seed))
        for name in names:
            low, high = np.quantile(measures[name](weights), [0.025, 0.975])
            inside[name] += low <= truth[name] <= high
    assert all(0.91 < count / 300 < 0.98 for count in inside.values()), inside
    assert 0.935 < np.mean(list(inside.values())) / 300 < 0.97, inside


@pytest.mark.parametrize("sharpness", [1.0, 1.5])
def test_the_interval_of_a_calibration_error_holds_what_a_large_sample_shows(sharpness):
    large = make_predictions(200_000, sharpness=sharpness, seed=98)
    gap = large.correct - large.confidence
    truth = np.abs(np.bincount(bin_confidence(large.confidence), gap, 15)).sum() / len(gap)
    inside = 0
    for seed in range(20):
        predictions = make_predictions(1000, sharpness=sharpness, seed=seed)
        measure, drawn = make_measures(predictions)["ece"], draw_calibrated(predictions, num_draws=200)["ece"]
        estimate = estimate_error(measure(np.ones((1, 1000)))[0], resample({"ece": measure}, 1000)["ece"], drawn)
        assert 0 <= estimate.low <= estimate.value <= estimate.high
        inside += estimate.low <= truth <= estimate.high
    assert inside >= 17
