"""What the monitor counts: plain numbers, which Prometheus reads when it asks for them."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlvlab_jax.data.statistics import describe_images

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from mlvlab_jax.monitoring.detector import TestResult

#: Classes told apart; those beyond are "other".
MAX_CLASSES = 100
#: Pairs of test and feature told apart.
_MAX_RESULTS = 200
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: By name: kind, labels, and what it is.
_FAMILIES: dict[str, tuple[Literal["counter", "gauge"], tuple[str, ...], str]] = {
    "mlvlab_predicted_class_total": ("counter", ("label",), "Images watched, by the class that was answered."),
    "mlvlab_monitor_dropped_total": ("counter", (), "Images that were more than the monitor could judge."),
    "mlvlab_drift_windows_total": ("counter", ("verdict",), "Complete windows, by how they compare to the reference."),
    "mlvlab_drift_p_value": ("gauge", ("test", "feature"), "Of the last complete window."),
    "mlvlab_drift_effect": ("gauge", ("test", "feature"), "Size of the difference in the last complete window."),
    "mlvlab_drift_alarm": ("gauge", (), "1 while windows keep differing from the reference."),
    "mlvlab_drift_last_success_timestamp_seconds": ("gauge", (), "When a window was judged last, or the start."),
    "mlvlab_drift_errors_total": ("counter", (), "Failures of the monitor, and work that took too long."),
    "mlvlab_labels_total": ("counter", (), "True classes that were told for answered images."),
    "mlvlab_live_accuracy": ("gauge", (), "Share of right answers among those whose true class was told."),
    "mlvlab_live_accuracy_low": ("gauge", (), "Lower limit of its 95 % interval."),
    "mlvlab_live_accuracy_high": ("gauge", (), "Upper limit of its 95 % interval."),
    "mlvlab_alerts_total": ("counter", ("result",), "Messages of alerts: sent, dropped for want of room, refused."),
    "mlvlab_alerts_pending": ("gauge", (), "Messages of alerts that wait for their receiver."),
}
_OTHER = ("mlvlab_predicted_class_total", "other")
#: Told as 0 before anything happened.
_ZEROS: tuple[tuple[str, ...], ...] = (
    ("mlvlab_monitor_dropped_total",),
    ("mlvlab_drift_windows_total", "same"),
    ("mlvlab_drift_windows_total", "different"),
    ("mlvlab_drift_alarm",),
    ("mlvlab_drift_errors_total",),
    ("mlvlab_labels_total",),
    ("mlvlab_alerts_total", "sent"),
    ("mlvlab_alerts_total", "dropped"),
    ("mlvlab_alerts_total", "failed"),
    ("mlvlab_alerts_pending",),
)


class MonitorMetrics:
    """Numbers by name and label values. Threads may share it.

    Args:
        registry: Prometheus registry that shows them; None: they are numbers only, and need no prometheus-client.
    """

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, ...], float] = dict.fromkeys(_ZEROS, 0.0)
        self._confidence = _Histogram(_CONFIDENCES)
        self._latency_s = _Histogram(_SECONDS)
        self._inputs: dict[str, tuple[int, float]] = {}
        if registry is not None:
            registry.register(self)

    def value(self, name: str, *labels: str) -> float:
        """The number with this name and these label values, NaN where nothing was told yet."""
        return self._numbers.get((name, *labels), float("nan"))

    @property
    def input_means(self) -> Mapping[str, float]:
        """Mean of each measure of the images given to `track_input_statistics`."""
        with self._lock:
            return {name: total / num for name, (num, total) in self._inputs.items()}

    def track_latency(self, latency: float) -> None:
        """Counts an answer that took `latency` seconds."""
        with self._lock:
            self._latency_s.add([latency])

    def track_confidence(self, confidence: float) -> None:
        """Counts an answer with the calibrated probability `confidence`, in [0, 1]."""
        with self._lock:
            self._confidence.add([confidence])

    def track_input_statistics(self, input_data: Mapping[str, Any]) -> None:
        """Adds the measures (`describe_images`) of `input_data["image"]`, uint8 (h w c), to their means."""
        measures = describe_images(np.asarray(input_data["image"])[None])
        with self._lock:
            for name, (value,) in measures.items():
                num, total = self._inputs.get(name, (0, 0.0))
                self._inputs[name] = (num + 1, total + float(value))

    def count_answers(self, probabilities: np.ndarray, class_names: Sequence[str]) -> None:
        """Counts classes and confidences of answers, float32 (b k)."""
        with self._lock:
            self._confidence.add(probabilities.max(-1).tolist())
            for index in probabilities.argmax(-1).tolist():
                key = ("mlvlab_predicted_class_total", class_names[index])
                if key not in self._numbers and (index >= MAX_CLASSES or self._num_classes() >= MAX_CLASSES):
                    key = _OTHER
                self._numbers[key] = self._numbers.get(key, 0.0) + 1

    def count(self, name: str, *labels: str, num: int = 1) -> None:
        """Adds `num` to a counter."""
        with self._lock:
            self._numbers[(name, *labels)] = self._numbers.get((name, *labels), 0.0) + num

    def set(self, name: str, value: float) -> None:
        """Sets a gauge without labels."""
        with self._lock:
            self._numbers[(name,)] = float(value)

    def forget(self, *names: str) -> None:
        """Takes away what was told under these names."""
        with self._lock:
            self._forget(names)

    def set_results(self, results: "Iterable[TestResult]") -> None:
        """Tells the results of a window in place of those of the one before."""
        told = list(results)[:_MAX_RESULTS]
        with self._lock:
            self._forget(("mlvlab_drift_p_value", "mlvlab_drift_effect"))
            for result in told:
                self._numbers[("mlvlab_drift_p_value", result.test, result.feature)] = result.p_value
                self._numbers[("mlvlab_drift_effect", result.test, result.feature)] = result.effect

    def collect(self) -> Iterator[Any]:
        """Everything, as prometheus-client asks for it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        with self._lock:
            numbers, histograms = dict(self._numbers), list(self._histograms())
        for name, (kind, labels, text) in _FAMILIES.items():
            family = kinds[kind](name, text, labels=labels)
            for (owner, *values), number in numbers.items():
                if owner == name:
                    family.add_metric(values, number)
            yield family
        yield from histograms

    def _histograms(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily, SummaryMetricFamily

        family = HistogramMetricFamily("mlvlab_confidence", "Calibrated probability of the class that was answered.")
        family.add_metric([], *self._confidence.cumulate())
        yield family
        if self._latency_s.num:
            # A server tells this of its routes by itself; two of the name would be one too many.
            family = HistogramMetricFamily("mlvlab_request_seconds", "Seconds to an answer.", labels=["route"])
            family.add_metric(["track_prediction"], *self._latency_s.cumulate())
            yield family
        if self._inputs:
            summary = SummaryMetricFamily("mlvlab_input_statistic", "Measures of the images.", labels=["feature"])
            for name, (num, total) in self._inputs.items():
                summary.add_metric([name], num, total)
            yield summary

    def _num_classes(self) -> int:
        return sum(key[0] == "mlvlab_predicted_class_total" and key != _OTHER for key in self._numbers)

    def _forget(self, names: Sequence[str]) -> None:
        self._numbers = {key: number for key, number in self._numbers.items() if key[0] not in names}


class _Histogram:
    """Counts of values up to each limit, and beyond the last."""

    def __init__(self, limits: Sequence[float]) -> None:
        self._limits = np.array(limits)
        self._counts = np.zeros(len(limits) + 1, np.int64)
        self._total = 0.0

    @property
    def num(self) -> int:
        return int(self._counts.sum())

    def add(self, values: Sequence[float]) -> None:
        """Counts each value: bin i holds limits[i - 1] < value <= limits[i]."""
        np.add.at(self._counts, np.searchsorted(self._limits, values), 1)
        self._total += sum(values)

    def cumulate(self) -> tuple[list[tuple[str, float]], float]:
        """Prometheus' buckets, each with those before it, and the sum of the values."""
        names = [*(str(limit) for limit in self._limits.tolist()), "+Inf"]
        return list(zip(names, np.cumsum(self._counts).tolist(), strict=True)), self._total
