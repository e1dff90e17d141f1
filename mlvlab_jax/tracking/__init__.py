"""Trackers: where a run's numbers go. One file a kind; MLflowTracker is for scripts of your own."""

from typing import Any

from mlvlab_jax.tracking import console, jsonl, mlflow, tensorboard  # noqa: F401


def __getattr__(name: str) -> Any:
    """MLflowTracker, imported on first use."""
    if name == "MLflowTracker":
        from mlvlab_jax.tracking.mlflow_tracker import MLflowTracker

        return MLflowTracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
