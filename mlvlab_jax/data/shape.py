"""All that a network, an optimiser and a schedule need to know of data that need not be there."""

from typing import NamedTuple

from mlvlab_jax.types import ImageSpec


class DataShape(NamedTuple):
    """image: shape of every image. num_classes: of the labels. num_train: examples in an epoch of training.
    multi_label: an example may have several classes, or none.
    """

    image: ImageSpec
    num_classes: int
    num_train: int
    multi_label: bool = False
