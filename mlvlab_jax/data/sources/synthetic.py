"""Images made from a seed: for benchmarks and tests, learnable but of no interest."""

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Positive
from mlvlab_jax.data.source import ArraySource, OpenedData, open_arrays
from mlvlab_jax.plugins import SOURCES


@configclass
class SyntheticParams:
    """Size of the made-up data set, which is held in memory."""

    num_train: Positive = 2048
    """Training images."""
    num_test: Positive = 512
    """Test images."""
    height: Positive = 32
    """Pixels."""
    width: Positive = 32
    """Pixels."""
    channels: Positive = 3
    """Colour channels."""
    num_classes: int = Field(default=10, ge=2)
    """Classes; each is one blurred random pattern, seen through noise."""
    seed: int = Field(default=0, ge=0)
    """Other seed, other images."""


@SOURCES.register("synthetic", SyntheticParams, example={"num_train": 64, "num_test": 20, "height": 8, "width": 8})
def open_synthetic(params: SyntheticParams) -> OpenedData:
    """Class patterns of 4 x 4 blocks plus uniform noise."""
    rng = np.random.Generator(np.random.Philox(params.seed))
    shape = (params.height, params.width, params.channels)
    coarse = rng.integers(64, 192, (params.num_classes, 4, 4, params.channels), dtype=np.uint8)
    rows = np.arange(params.height) * 4 // params.height
    columns = np.arange(params.width) * 4 // params.width
    patterns = coarse[:, rows][:, :, columns]
    splits = {}
    for name, count in (("train", params.num_train), ("test", params.num_test)):
        label = np.arange(count) % params.num_classes
        noise = rng.integers(-64, 64, (count, *shape), dtype=np.int16)
        image = (patterns[label] + noise).astype(np.uint8)
        splits[name] = ArraySource(image, label, place="synthetic")
    return open_arrays(splits, [str(k) for k in range(params.num_classes)], origin="synthetic")
