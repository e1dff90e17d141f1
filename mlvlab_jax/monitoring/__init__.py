"""Watches a served model: what it is asked and what it answers, held against the reference in its package."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlvlab_jax.monitoring.monitor import ModelMonitor
    from mlvlab_jax.monitoring.watcher import Watcher

__all__ = ["ModelMonitor", "Watcher"]


def __getattr__(name: str) -> Any:
    """The public classes, imported when they are asked for: a configuration names this package too."""
    if name == "ModelMonitor":
        from mlvlab_jax.monitoring.monitor import ModelMonitor

        return ModelMonitor
    if name == "Watcher":
        from mlvlab_jax.monitoring.watcher import Watcher

        return Watcher
    raise AttributeError(name)
