import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mlvlab_jax.monitoring import detector
from mlvlab_jax.monitoring.metrics import MonitorMetrics

#: All that a server's monitor tells; dashboards and rules are written for these.
NAMES = {
    "mlvlab_confidence",
    "mlvlab_predicted_class",
    "mlvlab_monitor_dropped",
    "mlvlab_drift_windows",
    "mlvlab_drift_p_value",
    "mlvlab_drift_effect",
    "mlvlab_drift_alarm",
    "mlvlab_drift_last_success_timestamp_seconds",
    "mlvlab_drift_errors",
    "mlvlab_labels",
    "mlvlab_live_accuracy",
    "mlvlab_live_accuracy_low",
    "mlvlab_live_accuracy_high",
    "mlvlab_alerts",
    "mlvlab_alerts_pending",
}


@pytest.fixture
def registry():
    return CollectorRegistry()


def make_result(number):
    return detector.TestResult("psi", f"feature_{number}", 0.25, number / 8, 0.1, False)


def test_the_names_are_those_of_dashboards_and_rules(registry):
    MonitorMetrics(registry)
    assert {family.name for family in registry.collect()} == NAMES


def test_what_did_not_happen_yet_is_zero_and_what_is_not_known_is_not_there(registry):
    MonitorMetrics(registry)
    assert registry.get_sample_value("mlvlab_drift_windows_total", {"verdict": "different"}) == 0
    assert registry.get_sample_value("mlvlab_alerts_total", {"result": "dropped"}) == 0
    assert registry.get_sample_value("mlvlab_live_accuracy") is None
    assert np.isnan(MonitorMetrics().value("mlvlab_live_accuracy"))


def test_confidences_are_counted_in_their_buckets(registry):
    metrics = MonitorMetrics(registry)
    rows = np.array([[0.9, 0.1], [0.5, 0.5], [0.05, 0.95], [1.0, 0.0]], np.float32)
    metrics.count_answers(rows, ("a", "b"))
    metrics.track_confidence(0.34)
    expected = {"0.3": 0, "0.4": 1, "0.5": 2, "0.9": 3, "0.95": 4, "0.99": 4, "1.0": 5, "+Inf": 5}
    told = {le: registry.get_sample_value("mlvlab_confidence_bucket", {"le": le}) for le in expected}
    assert told == expected
    assert registry.get_sample_value("mlvlab_confidence_sum") == pytest.approx(0.9 + 0.5 + 0.95 + 1 + 0.34)
    assert registry.get_sample_value("mlvlab_predicted_class_total", {"label": "a"}) == 3
    assert registry.get_sample_value("mlvlab_predicted_class_total", {"label": "b"}) == 1


def test_series_are_bounded_whatever_classes_and_features_there_are(registry):
    metrics = MonitorMetrics(registry)
    for version in range(3):
        names = [f"v{version}-{k}" for k in range(1000)]
        metrics.count_answers(np.eye(1000, dtype=np.float32)[::-1], names)
        metrics.set_results(make_result(number) for number in range(1000))
    series: dict[str, int] = {}
    for family in registry.collect():
        for sample in family.samples:
            series[sample.name] = series.get(sample.name, 0) + 1
    assert max(series.values()) == 200
    assert series["mlvlab_predicted_class_total"] == 101
    told = sum(s.value for f in registry.collect() for s in f.samples if s.name == "mlvlab_predicted_class_total")
    assert told == 3000
    assert registry.get_sample_value("mlvlab_predicted_class_total", {"label": "v0-99"}) == 1
    assert registry.get_sample_value("mlvlab_predicted_class_total", {"label": "v0-100"}) is None


def test_results_of_a_window_take_the_place_of_those_before(registry):
    metrics = MonitorMetrics(registry)
    metrics.set_results([make_result(1), make_result(2)])
    metrics.set_results([make_result(2)])
    text = generate_latest(registry).decode()
    assert [line for line in text.splitlines() if line.startswith(("mlvlab_drift_p", "mlvlab_drift_ef"))] == [
        'mlvlab_drift_p_value{feature="feature_2",test="psi"} 0.25',
        'mlvlab_drift_effect{feature="feature_2",test="psi"} 0.25',
    ]


def test_all_works_without_the_extra():
    program = """
import sys
for name in ("prometheus_client", "httpx", "fastapi"):
    sys.modules[name] = None
from mlvlab_jax.monitoring import ModelMonitor, Watcher
from tests.monitoring.observed import *
told = []
class Telling(ModelMonitor):
    def setup_alerts(self):
        return super().setup_alerts(send=told.append)
monitor = Telling(draw_reference(), make_config())
for seen in draw_observations(1, num=1000, dim=0.7):
    data = {"image": seen.image, "probabilities": seen.probabilities, "embedding": seen.embedding}
    monitor.track_prediction(data, {"confidence": seen.probabilities.max()}, 0.01)
monitor.close()
print(len(told), monitor.metrics.value("mlvlab_drift_alarm"), "jax" in sys.modules)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("1 1.0 False\n", 0), done.stderr
