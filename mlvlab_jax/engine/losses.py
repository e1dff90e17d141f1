"""Training losses as (sum, count) over masked examples; the division happens once, after all pieces are added.

Labels are class numbers (b), for the softmax or the binary cross entropy, or (b k), 1 for each class of examples that
may have several, for the binary cross entropy of every class.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer


class LossForm(NamedTuple):
    """Which loss.

    smoothing: share of the target that is spread evenly over all classes. binary: a sigmoid for each class also where
    classes exclude each other. gamma: exponent of the focal loss, 0 for none.
    """

    smoothing: float = 0.0
    binary: bool = False
    gamma: float = 0.0


def cross_entropy(
    logits: Float[Array, "b k"],
    label: Integer[Array, "b *k"],
    mask: Float[Array, " b"],
    form: LossForm = LossForm(),  # noqa: B008 - immutable
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross entropy, in nats.

    The binary one is the mean over the classes. Of several labels an example the two outcomes of each class share the
    smoothing, of class numbers all classes do, as in timm.

    Returns:
        The sum over examples, each times its mask, and the sum of the masks.

    References:
        C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015 (label smoothing).
        R. Wightman, H. Touvron, H. Jegou, "ResNet strikes back", 2021 (binary, of classes that exclude each other).
        T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """
    return (_values(logits, label, form) * mask).sum(), mask.sum()


def mixed_cross_entropy(
    logits: Float[Array, "b k"],
    label: Integer[Array, "b *k"],
    other_label: Integer[Array, "b *k"],
    label_weight: Float[Array, " b"],
    mask: Float[Array, " b"],
    form: LossForm = LossForm(),  # noqa: B008 - immutable
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross entropy, in nats, against soft targets: `label_weight` on one label, the rest on the other, then smoothed.

    Returns:
        As `cross_entropy`.

    References:
        H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017.
    """
    values = label_weight * _values(logits, label, form)
    values += (1 - label_weight) * _values(logits, other_label, form)
    return (values * mask).sum(), mask.sum()


def distillation_loss(
    logits: Float[Array, "b k"], teacher: Float[Array, "b k"], mask: Float[Array, " b"], temperature: float
) -> Float[Array, ""]:
    """Sum over examples, each times its mask, of temperature**2 times the divergence of the student's softened
    probabilities from the teacher's, in nats.

    References:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    student, wanted = (jax.nn.log_softmax(values / temperature) for values in (logits, teacher))
    return temperature**2 * (optax.losses.kl_divergence_with_log_targets(student, wanted) * mask).sum()


def is_correct(logits: Float[Array, "b k"], label: Integer[Array, "b *k"]) -> Float[Array, " b"]:
    """1 where the largest logit is the label's; of several labels an example, where exactly theirs are above 0."""
    if label.ndim == 2:
        return ((logits > 0) == (label > 0)).all(-1).astype(jnp.float32)
    return (logits.argmax(-1) == label).astype(jnp.float32)


def _values(logits: Float[Array, "b k"], label: Integer[Array, "b *k"], form: LossForm) -> Float[Array, " b"]:
    """Linear in the target, so that mixed ones need no form of their own."""
    if label.ndim == 2:
        return _binary(logits, (1 - form.smoothing) * label + form.smoothing / 2, form.gamma)
    if form.binary:
        return _binary(logits, optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), form.smoothing), form.gamma)
    if form.gamma:
        target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), form.smoothing)
        log_probability = jax.nn.log_softmax(logits)
        return -(target * _focus(log_probability, form.gamma) * log_probability).sum(-1)
    values = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    if form.smoothing:
        log_probability = logits - jnp.log(jnp.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        log_probability -= logits.max(-1, keepdims=True)
        values = (1 - form.smoothing) * values - form.smoothing * log_probability.mean(-1)
    return values


def _binary(logits: Float[Array, "b k"], target: Float[Array, "b k"], gamma: float) -> Float[Array, " b"]:
    if not gamma:
        return optax.losses.sigmoid_binary_cross_entropy(logits, target).mean(-1)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(target * _focus(yes, gamma) * yes + (1 - target) * _focus(no, gamma) * no).mean(-1)


def _focus(log_probability: Float[Array, "b k"], gamma: float) -> Float[Array, "b k"]:
    """(1 - p)**gamma, with a gradient that is finite for every gamma >= 0, also where p is 1."""
    return jnp.exp(gamma * jnp.log(jnp.maximum(-jnp.expm1(log_probability), jnp.finfo(jnp.float32).tiny)))
