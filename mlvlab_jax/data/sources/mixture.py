"""Several sources as one, each giving a stated share of every epoch."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import PluginField, configclass
from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.config.training import Positive
from mlvlab_jax.data.source import Mixed, OpenedData
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, Spec


@configclass
class MixturePart:
    """One source and its share."""

    source: Annotated[Spec, PluginField(SOURCES, without="mixture")]
    """The source, {name, params}."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share of the training examples is this over the sum of all weights."""


@configclass
class MixtureParams:
    """What is mixed. Classes of one name are one class; validation and test splits are put together whole."""

    parts: tuple[MixturePart, ...] = Field(min_length=1)
    """The sources and their weights."""
    examples_per_epoch: Positive | None = None
    """Training examples called one epoch; null takes the sum over the sources. In an epoch a source may be met more
    than once or in part; over time each of its examples is seen equally often."""


_DIGITS = {"source": {"name": "digits"}, "weight": 3.0}
_NOISE = {"source": {"name": "synthetic", "params": {"num_train": 30, "num_test": 10, "height": 8, "width": 8}}}


@SOURCES.register("mixture", MixtureParams, example={"parts": [_DIGITS, _NOISE]})
def open_mixture(params: MixtureParams) -> OpenedData:
    """Opens every source.

    Raises:
        DataError: As of the sources; or a share is so small that an epoch holds no example of it.
    """
    opened: list[OpenedData] = [SOURCES.build(part.source) for part in params.parts]
    for part, one in zip(params.parts, opened, strict=True):
        if one.label_sets is not None:
            raise DataError(
                f"mixture: examples of {part.source.name!r} have several labels each; expected one; list the examples "
                "of all parts in one manifest"
            )
    class_names = tuple(dict.fromkeys(name for one in opened for name in one.class_names))
    total = sum(part.weight for part in params.parts)
    shares = tuple(part.weight / total for part in params.parts)
    size = params.examples_per_epoch or sum(len(one.splits["train"]) for one in opened)
    for part, share in zip(params.parts, shares, strict=True):
        if round(share * size) == 0:
            raise DataError(
                f"mixture: {part.source.name!r} has a share of {share:g}, no whole example of an epoch of {size}; "
                "raise its weight or data.params.examples_per_epoch"
            )
    splits = {}
    for name in ("train", "validation", "test"):
        having = [one for one in opened if name in one.splits]
        if having:
            labels = tuple(np.array([class_names.index(own) for own in one.class_names]) for one in having)
            parts = tuple(one.splits[name] for one in having)
            splits[name] = Mixed(parts, labels, shares if name == "train" else None, size)
    identity = {f"{i}.{key}": value for i, one in enumerate(opened) for key, value in one.identity.items()}
    images = {one.image for one in opened}
    paths = tuple(path for one in opened for path in one.paths)
    image = images.pop() if len(images) == 1 else None
    return OpenedData(splits, class_names, identity, image, paths, preprocess=_common_preprocess(opened))


def _common_preprocess(opened: Sequence[OpenedData]) -> PreprocessSpec | None:
    """What the stored pixels have been through, where some are stored."""
    found = {one.preprocess for one in opened if one.preprocess is not None}
    if len(found) > 1:
        raise DataError(f"mixture: pixels were stored with different preprocessing: {found}; pack them again alike")
    return found.pop() if found else None
