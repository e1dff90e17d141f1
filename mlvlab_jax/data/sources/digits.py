"""The 1,797 real handwritten digits shipped with the package (see digits.md for their origin)."""

from importlib import resources

import numpy as np

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.data.source import ArraySource, OpenedData, open_arrays
from mlvlab_jax.plugins import SOURCES


@configclass
class DigitsParams:
    """Nothing to choose: the split is fixed, so that accuracies can be compared."""


@SOURCES.register("digits", DigitsParams)
def open_digits(params: DigitsParams) -> OpenedData:
    """8 x 8 x 1 images, 10 classes; 1,259 train, 179 validation, 359 test."""
    with resources.as_file(resources.files("mlvlab_jax.data.sources") / "digits.npz") as path, np.load(path) as file:
        image, label, split = file["image"], file["label"], file["split"]
    image = (image.astype(np.uint16) * 255 // 16).astype(np.uint8)
    splits = {
        name: ArraySource(image[split == k], label[split == k], place="digits")
        for k, name in enumerate(("train", "validation", "test"))
    }
    return open_arrays(splits, None, origin="digits")
