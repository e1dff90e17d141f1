"""The guide's monitor, as it is written there but for the name of the package it is imported from."""

import numpy as np
import prometheus_client
import pytest

from mlvlab_jax.errors import ConfigError, DataError, RunFolderError
from mlvlab_jax.monitoring import ModelMonitor
from tests.monitoring.observed import CLASS_NAMES, draw, draw_reference, make_config, read_lines


def define():
    class VisionModelMonitor(ModelMonitor):
        """Monitor model performance in production."""

        def __init__(self):
            self.metrics = self.setup_metrics()
            self.alerts = self.setup_alerts()

        def track_prediction(self, input_data: dict, prediction: dict, latency: float):
            """Track prediction metrics."""
            self.metrics.track_latency(latency)
            self.metrics.track_confidence(prediction["confidence"])
            self.metrics.track_input_statistics(input_data)

            # Check for drift
            if self.detect_drift(input_data):
                self.alerts.send_drift_alert()

    return VisionModelMonitor


def track(monitor, images, probabilities, embedding):
    for image, row, vector in zip(images, probabilities, embedding, strict=True):
        data = {"image": image, "probabilities": row, "embedding": vector}
        monitor.track_prediction(data, {"confidence": float(row.max())}, 0.02)


def test_the_guides_monitor_alerts_once_when_images_turn_dim(tmp_path, caplog):
    guide = define()
    guide.package, guide.config = draw_reference(), make_config(tmp_path / "monitor")
    monitor = guide()
    rng = np.random.default_rng(7)
    for dim, num in ((1.0, 1000), (0.7, 2000)):
        track(monitor, *draw(rng, num, dim=dim))
    monitor.close()
    assert [record.getMessage() for record in caplog.records if "firing" in record.getMessage()] == [
        "firing: Requests to model unknown differ from its reference"
    ]
    windows = read_lines(tmp_path / "monitor/windows.jsonl")
    assert [window["rejected"] for window in windows] == [False] * 2 + [True] * 4
    assert [window["alarm"] for window in windows] == [False] * 3 + [True] * 3
    assert monitor.metrics.value("mlvlab_alerts_total", "sent") == 1
    assert monitor.metrics.value("mlvlab_drift_windows_total", "different") == 4
    assert set(monitor.metrics.input_means) == {"brightness", "contrast", "sharpness", "mean_0", "std_0"}
    assert 85 < monitor.metrics.input_means["brightness"] < 105


def test_an_alarm_is_told_again_after_it_ended(caplog):
    told = []

    class Telling(ModelMonitor):
        def setup_alerts(self):
            return super().setup_alerts(send=told.append)

    monitor = Telling(draw_reference(), make_config())
    rng = np.random.default_rng(8)
    for dim in (0.7, 1.0, 0.7):
        track(monitor, *draw(rng, 1000, dim=dim))
    monitor.close()
    assert [message["status"] for message in told] == ["firing", "resolved", "firing"]
    assert not caplog.records


def test_drift_is_detected_by_the_image_that_raises_the_alarm_and_by_no_other():
    monitor = ModelMonitor(draw_reference(), make_config())
    images, probabilities, embedding = draw(np.random.default_rng(5), 1100, dim=0.7)
    rows = zip(images, probabilities, embedding, strict=True)
    said = [monitor.detect_drift(dict(zip(("image", "probabilities", "embedding"), row, strict=True))) for row in rows]
    monitor.close()
    assert np.flatnonzero(said).tolist() == [999]


def test_an_alarm_outlasts_its_process(tmp_path, caplog):
    reference, config = draw_reference(), make_config(tmp_path)
    for seed, dim in ((1, 0.7), (2, 0.7), (3, 1.0), (4, 1.0)):
        monitor = ModelMonitor(reference, config)
        track(monitor, *draw(np.random.default_rng(seed), 500, dim=dim))
        monitor.close()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["firing", "resolved"]


def test_a_folder_has_one_writer(tmp_path):
    first = ModelMonitor(draw_reference(), make_config(tmp_path))
    with pytest.raises(RunFolderError, match="give another monitoring.folder"):
        ModelMonitor(draw_reference(), make_config(tmp_path))
    first.close()


def test_numbers_are_shown_to_prometheus_where_there_is_a_registry():
    class Shown(ModelMonitor):
        package, registry = draw_reference(), prometheus_client.CollectorRegistry()

    monitor = Shown()
    track(monitor, *draw(np.random.default_rng(9), 3))
    monitor.close()
    shown = Shown.registry.get_sample_value
    assert shown("mlvlab_request_seconds_bucket", {"route": "track_prediction", "le": "0.01"}) == 0
    assert shown("mlvlab_request_seconds_bucket", {"route": "track_prediction", "le": "0.025"}) == 3
    assert shown("mlvlab_confidence_count") == 3
    mean = monitor.metrics.input_means["brightness"]
    assert shown("mlvlab_input_statistic_sum", {"feature": "brightness"}) == pytest.approx(3 * mean)


class TinyPackage:
    """What a monitor asks of a package."""

    name, class_names, temperature = "tiny", CLASS_NAMES, 2.0

    def __init__(self):
        self.reference = draw_reference()
        self.manifest = type("Manifest", (), {"sha256": "0123456789abcdef" * 4})
        self.asked = []

    def predict(self, image):
        self.asked.append(image)
        return np.array([[2.0, 0.0, 0.0]], np.float32), np.zeros((1, 4), np.float32)


def test_the_package_answers_where_the_caller_does_not_say_what_it_answered(monkeypatch, tmp_path):
    package = TinyPackage()
    monitor = ModelMonitor(package, make_config(tmp_path))
    images, *_ = draw(np.random.default_rng(3), 500)
    for image in images:
        monitor.detect_drift({"image": image})
    monitor.close()
    np.testing.assert_array_equal(np.concatenate(package.asked), images)
    (window,) = read_lines(tmp_path / "windows.jsonl")
    assert (window["model"], window["version"], window["prediction"]) == ("tiny", "0123456789ab", [500, 0, 0])
    confidence = np.e / (np.e + 2)  # softmax of (2, 0, 0) over the temperature
    assert window["images"][0]["confidence"] == pytest.approx(confidence)


@pytest.mark.parametrize("data", [{}, {"image": np.zeros((8, 8), np.uint8)}, {"image": np.zeros((8, 8, 1))}])
def test_no_image_of_a_network_is_refused(data):
    with pytest.raises(DataError, match="expected 'image': uint8"):
        ModelMonitor(draw_reference(), make_config()).detect_drift(data)


def test_a_reference_alone_asks_for_the_answers():
    with pytest.raises(DataError, match="'probabilities' and 'embedding'"):
        ModelMonitor(draw_reference(), make_config()).detect_drift({"image": np.zeros((8, 8, 1), np.uint8)})


def test_a_monitor_without_a_package_says_how_to_name_one():
    with pytest.raises(ConfigError, match=r"VisionModelMonitor\.package = PATH"):
        define()()


def test_a_detector_that_fails_does_not_reach_the_caller(monkeypatch, caplog):
    monkeypatch.setattr("mlvlab_jax.monitoring.detector.Detector.judge", lambda self, window: 1 / 0)
    monitor = ModelMonitor(draw_reference(), make_config())
    track(monitor, *draw(np.random.default_rng(4), 1000))
    assert monitor.metrics.value("mlvlab_drift_errors_total") == 2
    assert len(caplog.records) == 1
    monitor.close()
