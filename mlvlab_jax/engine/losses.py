"""Training losses as (sum, count) over masked examples; the division happens once, after all pieces are added."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b k"], label: Int[Array, " b"], mask: Float[Array, " b"], *, smoothing: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross entropy, in nats, against targets of which `smoothing` is spread evenly over all classes.

    Returns:
        The sum over examples with mask 1, and their number.

    References:
        C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015 (label smoothing).
    """
    return (_values(logits, label, smoothing) * mask).sum(), mask.sum()


def mixed_cross_entropy(
    logits: Float[Array, "b k"],
    label: Int[Array, " b"],
    other_label: Int[Array, " b"],
    label_weight: Float[Array, " b"],
    mask: Float[Array, " b"],
    *,
    smoothing: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross entropy, in nats, against soft targets: `label_weight` on one label, the rest on the other, then smoothed.

    Returns:
        The sum over examples with mask 1, and their number.

    References:
        H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017.
    """
    values = label_weight * _values(logits, label, smoothing)
    values += (1 - label_weight) * _values(logits, other_label, smoothing)
    return (values * mask).sum(), mask.sum()


def _values(logits: Float[Array, "b k"], label: Int[Array, " b"], smoothing: float) -> Float[Array, " b"]:
    values = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    if smoothing:
        log_probability = logits - jnp.log(jnp.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        log_probability -= logits.max(-1, keepdims=True)
        values = (1 - smoothing) * values - smoothing * log_probability.mean(-1)
    return values
