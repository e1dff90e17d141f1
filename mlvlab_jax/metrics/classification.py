"""Metrics of a classifier.

Each is a `Metric`: `update` gives the (sum, count) of one batch, on the device; sums are added on the host in float64
and divided once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.schema import Positive
from mlvlab_jax.plugins import METRICS


class Metric(NamedTuple):
    """name: key in the results; update: (logits (b k), label (b), mask (b)) -> (sum, count), scalars."""

    name: str
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


@configclass
class NoParams:
    """Nothing to choose."""


@configclass
class TopKParams:
    """Which k."""

    k: Positive = 5
    """Guesses among which the label must be."""


@METRICS.register("loss", NoParams)
def loss(params: NoParams) -> Metric:
    """Mean negative log likelihood in nats; the training loss without label smoothing."""

    def update(logits: Any, label: Any, mask: Any) -> tuple[Any, Any]:
        import optax

        values = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
        return (values * mask).sum(), mask.sum()

    return Metric("loss", update)


@METRICS.register("accuracy", NoParams)
def accuracy(params: NoParams) -> Metric:
    """Share of examples whose largest logit is the label's (top-1)."""

    def update(logits: Any, label: Any, mask: Any) -> tuple[Any, Any]:
        return ((logits.argmax(-1) == label) * mask).sum(), mask.sum()

    return Metric("accuracy", update)


@METRICS.register("top_k", TopKParams, example={"k": 2})
def top_k(params: TopKParams) -> Metric:
    """Share of examples whose label is among the k largest logits; ties count against the label."""

    def update(logits: Any, label: Any, mask: Any) -> tuple[Any, Any]:
        import jax.numpy as jnp

        own = jnp.take_along_axis(logits, label[:, None], axis=-1)
        rank = (logits >= own).sum(-1)
        return ((rank <= params.k) * mask).sum(), mask.sum()

    return Metric(f"top_{params.k}", update)
