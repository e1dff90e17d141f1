"""Names, versions and aliases of models, and what a version must show before an alias points to it."""

from mlvlab_jax.registry.model_registry import ModelRegistry

__all__ = ["ModelRegistry"]
