"""Random changes of training images on the device: pure functions, keyed per example."""

from mlvlab_jax.data.augment.order import augment, check_channels, erase_and_mix, normalize

__all__ = ["augment", "check_channels", "erase_and_mix", "normalize"]
