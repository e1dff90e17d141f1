"""Each example of a training batch by itself, as the step that takes the batch sees it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.step import compute_loss, loss_form, make_dropout_key, make_examples, take_piece
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.optim.fine_tuning import hold_frozen
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import Tree

#: (variables, piece of a batch, key) -> loss of each of its examples, float32 (n).
Losses = Callable[[Variables, Tree, jax.Array], jax.Array]


class PerExample(NamedTuple):
    """Of the b examples of a batch, in its order.

    loss: float32 (b), in nats, times the example's weight; they add up to the step's loss_sum. grad_norm: float32 (b),
    L2 norm of the gradient of each of these; the step's gradient is the mean of the gradients.
    """

    loss: np.ndarray
    grad_norm: np.ndarray

    def rank(self) -> np.ndarray:
        """Positions in the batch, int64 (b): what is not finite first, then by gradient norm and loss, downwards."""
        finite = [np.isfinite(values) for values in self]
        loss, grad_norm = (np.where(kept, values, 0) for kept, values in zip(finite, self, strict=True))
        return np.lexsort((-loss, -grad_norm, finite[1], finite[0]))


class NotFinite(NamedTuple):
    """What is NaN or infinite in a step. Names are in the order in which the network uses the parameters.

    params: of the state it begins with. examples: positions in the batch of those whose loss is. gradients: parameters
    whose gradient is.
    """

    params: list[str]
    examples: list[int]
    gradients: list[str]


class Seen(NamedTuple):
    """What the network and the loss were given of b examples.

    image: uint8 (b h w c), augmented, erased and mixed, brought back to pixels. target: float32 (b k), weight of each
    class, before smoothing.
    """

    image: np.ndarray
    target: np.ndarray


def measure_examples(model: Model, config: Config, state: TrainState, batch: Tree) -> PerExample:
    """Loss and gradient norm of each example of a batch, in training mode: augmented, mixed, with the step's dropout.

    A gradient is that of the example's share of the batch's loss: the whole batch is passed forward and back for each
    example, and its loss alone counts. So the random numbers are those of the step, and with batch normalisation the
    share holds what the example does to the others' statistics and they to its; the example passed through alone would
    give neither. This takes the memory of one step and the time of b. Where one example overflows, others may have a
    gradient that is not finite either (0 x inf); the loss tells them apart.

    Args:
        model: The network.
        config: Of the run.
        state: Before the step.
        batch: Of the step, on the devices.
    """
    compute_losses = _make_losses(model, config)
    compute_norm = jax.jit(lambda *arguments: optax.tree.norm(_differentiate(compute_losses, *arguments)))
    loss, grad_norm = np.zeros((2, len(batch["mask"])), np.float32)
    for rows, piece, key in _divide(config, state, batch):
        losses = jax.device_get(jax.jit(compute_losses)(state.variables, piece, key))
        weights = np.eye(len(losses), dtype=np.float32)
        loss[rows] = losses
        grad_norm[rows] = jax.device_get([compute_norm(state.variables, piece, key, one) for one in weights])
    return PerExample(loss, grad_norm)


def find_not_finite(model: Model, config: Config, state: TrainState, batch: Tree) -> NotFinite:
    """What is not finite in the step from `state` with `batch`; arguments as of `measure_examples`."""
    compute_losses = jax.jit(_make_losses(model, config))
    differentiate = jax.jit(lambda *arguments: _differentiate(compute_losses, *arguments))
    examples: list[int] = []
    gradients: set[str] = set()
    for rows, piece, key in _divide(config, state, batch):
        bad = ~np.isfinite(jax.device_get(compute_losses(state.variables, piece, key)))
        examples += np.arange(len(batch["mask"]))[rows][bad].tolist()
        gradients |= _not_finite(differentiate(state.variables, piece, key, np.ones(len(bad), np.float32)))
    params, order = _not_finite(state.variables.params), _list_in_order(model)
    return NotFinite([n for n in order if n in params], sorted(examples), [n for n in order if n in gradients])


def see_examples(config: Config, state: TrainState, batch: Tree, *, num_classes: int) -> Seen:
    """What the step from `state` makes of `batch` before the network; arguments as of `measure_examples`."""
    pipeline = config.pipeline
    given = jax.device_get(jax.jit(lambda key, batch: make_examples(key, batch, pipeline))(state.key, batch))
    mean, std = (np.reshape(values, (1, 1, 1, -1)) for values in (pipeline.mean, pipeline.std))
    image = np.clip(np.rint(255 * (given["image"] * std + mean)), 0, 255).astype(np.uint8)
    label, other = (_spread(given.get(name), num_classes) for name in ("label", "other_label"))
    weight = np.reshape(given.get("label_weight", 1.0), (-1, 1))
    return Seen(image, (weight * label + (1 - weight) * other).astype(np.float32))


def _divide(config: Config, state: TrainState, batch: Tree) -> Iterator[tuple[slice, Tree, jax.Array]]:
    """The pieces the batch is computed in: rows of the batch, what the network and the loss are given, key."""
    examples = jax.jit(lambda key, batch: make_examples(key, batch, config.pipeline))(state.key, batch)
    num_pieces = config.training.accumulation_steps
    for index in range(num_pieces):
        key = jax.random.fold_in(make_dropout_key(state), index)
        yield slice(index, None, num_pieces), take_piece(examples, index, num_pieces=num_pieces), key


def _make_losses(model: Model, config: Config) -> Losses:
    form = loss_form(config.training)

    def compute_one(logits: jax.Array, target: Tree) -> jax.Array:
        return compute_loss(logits[None], jax.tree.map(lambda x: x[None], target), form)[0]

    def compute_losses(variables: Variables, piece: Tree, key: jax.Array) -> jax.Array:
        tuned = Variables(hold_frozen(variables.params, config.training), variables.state)
        logits, _ = model.apply(tuned, piece["image"], key, True)
        return jax.vmap(compute_one)(logits, {name: rows for name, rows in piece.items() if name != "image"})

    return compute_losses


def _differentiate(
    compute_losses: Losses, variables: Variables, piece: Tree, key: jax.Array, weight: jax.Array
) -> Tree:
    """Gradient of the sum of the losses, each times its weight."""

    def weigh(params: Tree) -> jax.Array:
        return (weight * compute_losses(Variables(params, variables.state), piece, key)).sum()

    return jax.grad(weigh)(variables.params)


def _spread(label: np.ndarray | None, num_classes: int) -> Any:
    """Labels as weights of the classes, float32 (b k)."""
    if label is None:
        return np.float32(0)
    return np.eye(num_classes, dtype=np.float32)[label] if label.ndim == 1 else label.astype(np.float32)


def _not_finite(tree: Tree) -> set[str]:
    finite = jax.jit(lambda tree: jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree))(tree)
    return {name for name, is_finite in named_leaves(jax.device_get(finite)) if not is_finite}


def _list_in_order(model: Model) -> list[str]:
    """Names of the parameters as the network makes them; jax has every tree sorted by name."""
    names: list[str] = []

    def init(key: jax.Array) -> Variables:
        variables = model.init(key)
        names.extend(_list_leaves(variables.params))
        return variables

    jax.eval_shape(init, jax.random.key(0))
    return names


def _list_leaves(tree: Tree, *above: str) -> Iterator[str]:
    if not isinstance(tree, Mapping):
        yield "/".join(above)
        return
    for name, part in tree.items():
        yield from _list_leaves(part, *above, str(name))
