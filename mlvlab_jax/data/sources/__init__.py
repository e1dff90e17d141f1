"""Data sources: one file a kind; the import line below is what makes it known."""

from mlvlab_jax.data.sources import arrays, digits, image_folder, manifest, synthetic, tfds  # noqa: F401
