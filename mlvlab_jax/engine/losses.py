"""Training losses as (sum, count) over masked examples; the division happens once, after all pieces are added.

Labels are class numbers (b), for the softmax cross entropy, or (b k), 1 for each class of examples that may have
several, for the binary cross entropy of every class.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer


def cross_entropy(
    logits: Float[Array, "b k"], label: Integer[Array, "b *k"], mask: Float[Array, " b"], *, smoothing: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross entropy, in nats, against targets of which `smoothing` is spread evenly over all classes.

    Of several labels an example it is the mean over the classes of the binary cross entropy, whose two outcomes share
    `smoothing`.

    Returns:
        The sum over examples with mask 1, and their number.

    References:
        C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015 (label smoothing).
    """
    return (_values(logits, label, smoothing) * mask).sum(), mask.sum()


def mixed_cross_entropy(
    logits: Float[Array, "b k"],
    label: Integer[Array, "b *k"],
    other_label: Integer[Array, "b *k"],
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


def is_correct(logits: Float[Array, "b k"], label: Integer[Array, "b *k"]) -> Float[Array, " b"]:
    """1 where the largest logit is the label's; of several labels an example, where exactly theirs are above 0."""
    if label.ndim == 2:
        return ((logits > 0) == (label > 0)).all(-1).astype(jnp.float32)
    return (logits.argmax(-1) == label).astype(jnp.float32)


def _values(logits: Float[Array, "b k"], label: Integer[Array, "b *k"], smoothing: float) -> Float[Array, " b"]:
    if label.ndim == 2:
        targets = (1 - smoothing) * label + smoothing / 2
        return optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean(-1)
    values = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    if smoothing:
        log_probability = logits - jnp.log(jnp.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        log_probability -= logits.max(-1, keepdims=True)
        values = (1 - smoothing) * values - smoothing * log_probability.mean(-1)
    return values
