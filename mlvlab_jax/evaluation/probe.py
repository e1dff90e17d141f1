"""How much a network's features tell of the classes of data it need not have been trained on.

Features are computed once, without augmentation; everything here is cheap beside that.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlvlab_jax.evaluation.features import Features

#: Strengths of the L2 penalty tried by the linear probe, on features of unit variance.
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_ITERATIONS = 100
#: Of DINO's nearest neighbours: how many vote, and the temperature of their votes.
NEIGHBOURS, _TEMPERATURE = 20, 0.07
#: Ridge penalty of the few-shot evaluator, and how many draws of examples it takes the mean of.
_RIDGE, NUM_DRAWS = 2.0**10, 3
_CHUNK = 1024


class LinearProbe(NamedTuple):
    """accuracy: on what was measured. penalty: the one that was best on the validation split, validated: how good."""

    accuracy: float
    penalty: float
    validated: float


def probe_linearly(train: Features, validation: Features, test: Features, *, num_classes: int) -> LinearProbe:
    """Softmax regression on standardised features, by L-BFGS; the penalty is chosen on `validation`.

    Args:
        train: To fit on.
        validation: To choose the penalty on.
        test: To measure.
        num_classes: Of the labels.
    """
    mean, std = train.value.mean(0), train.value.std(0)
    inputs = [jnp.asarray((split.value - mean) / np.maximum(std, 1e-6)) for split in (train, validation, test)]
    found: list[tuple[float, float, jax.Array]] = []
    weights = jnp.zeros((train.value.shape[1] + 1, num_classes))
    for penalty in sorted(PENALTIES, reverse=True):  # each from where the stronger one ended
        weights = _fit(weights, inputs[0], jnp.asarray(train.label), jnp.float32(penalty))
        found.append((_accuracy(np.asarray(_logits(weights, inputs[1])), validation.label), penalty, weights))
    accuracy, penalty, weights = max(found, key=lambda one: one[0])  # of equals the first, with the stronger penalty
    return LinearProbe(_accuracy(np.asarray(_logits(weights, inputs[2])), test.label), penalty, accuracy)


def vote_of_neighbours(train: Features, test: Features, *, num_classes: int) -> float:
    """Accuracy of the weighted vote of the 20 training examples whose features point most nearly the same way.

    References:
        Z. Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018 (the weights).
        M. Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021 (20 of them, 0.07).
    """
    known, asked = _to_unit(train.value), _to_unit(test.value)
    votes = [
        _vote(known, train.label, asked[at : at + _CHUNK], num_classes=num_classes)
        for at in range(0, len(asked), _CHUNK)
    ]
    return _accuracy(np.concatenate([np.asarray(part) for part in votes]), test.label)


def learn_from_few(
    train: Features, test: Features, *, shots: Sequence[int], num_classes: int
) -> dict[int, list[float]]:
    """Accuracy of a ridge regression on so many examples of each class, in closed form, for each draw of them.

    Args:
        train: To draw from; classes with fewer examples give all they have.
        test: To measure.
        shots: Examples of a class.
        num_classes: Of the labels.

    Returns:
        Accuracies of three draws, by the number of shots.

    References:
        A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, section 4.1 (targets -1 and 1).
    """
    found: dict[int, list[float]] = {}
    for shot in shots:
        for draw in range(NUM_DRAWS):
            rng = np.random.default_rng([shot, draw])
            order = rng.permutation(len(train.label))
            rows = np.concatenate([order[train.label[order] == k][:shot] for k in range(num_classes)])
            weights = _solve_ridge(train.value[rows], train.label[rows], num_classes)
            inputs = _with_bias(test.value, train.value[rows])
            found.setdefault(shot, []).append(_accuracy(inputs @ weights, test.label))
    return found


def _with_bias(value: np.ndarray, of: np.ndarray) -> np.ndarray:
    """`value` standardised by the rows `of`, and a column of ones."""
    scaled = (value - of.mean(0)) / np.maximum(of.std(0), 1e-6)
    return np.pad(scaled, ((0, 0), (0, 1)), constant_values=1.0)


def _solve_ridge(value: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    inputs = _with_bias(value, value).astype(np.float64)
    targets = 2.0 * (label[:, None] == np.arange(num_classes)) - 1
    if len(inputs) < inputs.shape[1]:  # the smaller of two equal systems
        system = inputs @ inputs.T + _RIDGE * np.eye(len(inputs))
        return np.asarray(inputs.T @ np.linalg.solve(system, targets))
    system = inputs.T @ inputs + _RIDGE * np.eye(inputs.shape[1])
    return np.asarray(np.linalg.solve(system, inputs.T @ targets))


def _to_unit(value: np.ndarray) -> np.ndarray:
    return value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12)


def _accuracy(scores: np.ndarray, label: np.ndarray) -> float:
    return float((scores.argmax(1) == label).mean())


def _logits(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    return inputs @ weights[:-1] + weights[-1:]


@jax.jit
def _fit(weights: jax.Array, inputs: jax.Array, label: jax.Array, penalty: jax.Array) -> jax.Array:
    def loss(weights: jax.Array) -> jax.Array:
        values = optax.losses.softmax_cross_entropy_with_integer_labels(_logits(weights, inputs), label)
        return values.mean() + penalty * (weights[:-1] ** 2).sum()

    tx = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(_: int, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = tx.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state

    fitted: jax.Array = jax.lax.fori_loop(0, _ITERATIONS, step, (weights, tx.init(weights)))[0]
    return fitted


@functools.partial(jax.jit, static_argnames="num_classes")
def _vote(known: jax.Array, label: jax.Array, asked: jax.Array, *, num_classes: int) -> jax.Array:
    near, at = jax.lax.top_k(asked @ known.T, min(NEIGHBOURS, len(label)))
    weight = jnp.exp(near / _TEMPERATURE)
    return (weight[..., None] * jax.nn.one_hot(label[at], num_classes)).sum(1)
