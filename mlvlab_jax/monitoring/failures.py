"""Failures of the monitor: counted, told once a kind, and never passed on to what is watched."""

import logging

from mlvlab_jax.monitoring.metrics import MonitorMetrics

_log = logging.getLogger(__name__)


class SlowError(Exception):
    """A piece of work took so long that something is wrong with the machine, such as with its disk."""


class Failures:
    """Counts failures, and logs the first of each kind."""

    def __init__(self, metrics: MonitorMetrics) -> None:
        self._metrics = metrics
        self._told: set[str] = set()

    def note(self, error: Exception) -> None:
        """Counts an error that the monitor goes on after."""
        if type(error).__name__ not in self._told:
            self._told.add(type(error).__name__)
            _log.warning("the monitor goes on after a failure, which is told once of its kind", exc_info=error)
        self._metrics.count("mlvlab_drift_errors_total")
