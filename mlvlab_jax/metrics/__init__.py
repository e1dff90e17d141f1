"""Metrics over masked batches, built from sums and counts so that any split into batches gives the same number."""

from mlvlab_jax.metrics import classification  # noqa: F401
