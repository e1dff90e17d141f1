"""Data sources: one file a kind; the import line below is what makes it known."""

from mlvlab_jax.data.sources import arrays, digits, synthetic, tfds  # noqa: F401
