"""Trackers: where a run's numbers go. One file a kind."""

from mlvlab_jax.tracking import console, jsonl, tensorboard  # noqa: F401
