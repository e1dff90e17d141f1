"""Data sources: one file a kind; the import line below is what makes it known."""

from mlvlab_jax.data.sources import (  # noqa: F401
    array_record,
    arrays,
    digits,
    image_folder,
    manifest,
    mixture,
    synthetic,
    tfds,
)
