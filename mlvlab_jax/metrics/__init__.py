"""Metrics over masked batches, built from sums and counts so that any split into batches gives the same number."""

from mlvlab_jax.metrics import calibration, classification, multilabel, ranking  # noqa: F401
from mlvlab_jax.metrics.computer import MetricsComputer
from mlvlab_jax.metrics.tracker import MetricsTracker

__all__ = ["MetricsComputer", "MetricsTracker"]
