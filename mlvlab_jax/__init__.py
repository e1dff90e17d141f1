"""mlvlab_jax: one YAML file in, a reproducible vision model out."""

__version__ = "0.1.0"
