"""Serves a model package over HTTP, and from Python."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlvlab_jax.serving.model_server import ModelServer

__all__ = ["ModelServer"]


def __getattr__(name: str) -> Any:
    """Imports `ModelServer` when it is asked for: the commands and the configuration stay fast."""
    if name == "ModelServer":
        from mlvlab_jax.serving.model_server import ModelServer

        return ModelServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
