"""The training step: pure, testable without jit; `compile_train_step` wraps it for the mesh."""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mlvlab_jax.config.augment import AugmentConfig
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.data.augment import augment, erase_and_mix, normalize
from mlvlab_jax.engine.activations import keep_examples_in_place
from mlvlab_jax.engine.compiling import CompileOptions
from mlvlab_jax.engine.examples import digest_batch
from mlvlab_jax.engine.losses import LossForm, cross_entropy, distillation_loss, is_correct, mixed_cross_entropy
from mlvlab_jax.engine.mesh import batch_sharding, replicated
from mlvlab_jax.engine.skipping import describe_gradients, guards, keep_good
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.optim.chain import Optimizer
from mlvlab_jax.optim.fine_tuning import hold_frozen
from mlvlab_jax.types import Tree

Scalars = dict[str, jax.Array]
#: Names of what a step reports.
SCALARS = (
    *("loss_sum", "num_correct", "num_examples", "grad_norm", "learning_rate"),
    *("examples", "num_bad_grads", "first_bad_grad", "applied"),
)
TrainStep = Callable[[TrainState, Tree], tuple[TrainState, Scalars]]

_AUGMENT_STREAM, _DROPOUT_STREAM = 0, 1


def augment_batch(key_data: jax.Array, batch: Tree, config: AugmentConfig) -> jax.Array:
    """Training pixels of a batch, uint8 (b h w c), as changed for this epoch before normalisation.

    Args:
        key_data: `TrainState.key`.
        batch: Device batch.
        config: Which changes.
    """
    return augment(batch["image"], batch["example_id"], batch["epoch"], _augment_key(key_data), config)


def _augment_key(key_data: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.wrap_key_data(key_data), _AUGMENT_STREAM)


def make_examples(key_data: jax.Array, batch: Tree, pipeline: PipelineConfig) -> Tree:
    """What the network and the loss see: image, label and mask, a second label where examples are mixed, and what the
    teacher says where there is one.
    """
    image = normalize(augment_batch(key_data, batch, pipeline.augment), pipeline)
    example_id, epoch, key = batch["example_id"], batch["epoch"], _augment_key(key_data)
    examples = erase_and_mix(image, batch["label"], example_id, epoch, key, pipeline.augment)
    return examples | {name: batch[name] for name in ("mask", "teacher") if name in batch}


def make_dropout_key(state: TrainState) -> jax.Array:
    """Of the update that `state` is the start of; each piece of the batch folds its number into it."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), _DROPOUT_STREAM), state.step)


def take_piece(examples: Tree, index: int, *, num_pieces: int) -> Tree:
    """Every `num_pieces`-th of the examples, from number `index` on: of all devices the same share."""
    return jax.tree.map(lambda x: x.reshape(-1, num_pieces, *x.shape[1:])[:, index], examples)


def make_train_step(
    model: Model, optimizer: Optimizer, training: TrainingConfig, pipeline: PipelineConfig
) -> TrainStep:
    """The update as a pure function (state, batch) -> (state, scalars).

    The scalars are sums over the batch (loss_sum, num_correct, num_examples), the update's grad_norm and
    learning_rate, the `digest_batch` of its examples, how many parameters have a gradient that is not finite and which
    is the first, and whether the update was applied (1.0) or left out (0.0), which changes nothing of the state. Of a
    mixed example the label with more weight is the correct one.
    """

    def train_step(state: TrainState, batch: Tree) -> tuple[TrainState, Scalars]:
        examples, key = make_examples(state.key, batch, pipeline), make_dropout_key(state)
        grads, model_state, sums = _accumulate(model, training, state.variables, examples, key)
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.variables.params)
        variables = Variables(optax.apply_updates(state.variables.params, updates), model_state)
        scalars = sums | describe_gradients(grads)
        scalars |= {
            "learning_rate": optimizer.learning_rate(state.step, state.opt_state),
            "examples": digest_batch(batch["example_id"], batch["epoch"]),
        }
        if optimizer.averaged is None:
            ema = _average(state.ema, variables, state.step, training.ema_decay)
        else:
            ema = variables._replace(params=optimizer.averaged(opt_state, variables.params))
        new = dataclasses.replace(state, step=state.step + 1, variables=variables, opt_state=opt_state, ema=ema)
        applied = jnp.float32(1)
        if guards(training):
            new, applied = keep_good(training, state, new, updates, scalars)
        return new, scalars | {"applied": applied}

    return train_step


def _accumulate(
    model: Model, training: TrainingConfig, variables: Variables, examples: Tree, key: jax.Array
) -> tuple[Tree, Tree, Scalars]:
    """Gradient of the batch's mean loss, new model state, and sums; in pieces where so configured."""

    def loss_sum(params: Tree, piece: Tree, piece_key: jax.Array) -> tuple[jax.Array, tuple[Tree, Scalars]]:
        tuned = Variables(hold_frozen(params, training), variables.state)
        logits, state = model.apply(tuned, piece["image"], piece_key, True)
        loss, count = compute_loss(logits, piece, loss_form(training))
        if (taught := training.distillation) is not None:
            wanted = distillation_loss(logits, piece["teacher"], piece["mask"], taught.temperature)
            loss = (1 - taught.weight) * loss + taught.weight * wanted
        correct = (is_correct(logits, piece["label"]) * piece["mask"]).sum()
        return loss, (state, {"loss_sum": loss, "num_correct": correct, "num_examples": count})

    num_pieces = training.accumulation_steps

    def of_piece(index: int) -> tuple[Tree, tuple[Tree, Scalars]]:
        piece = take_piece(examples, index, num_pieces=num_pieces)
        return jax.grad(loss_sum, has_aux=True)(variables.params, piece, jax.random.fold_in(key, index))

    # Unrolled: a convolution inside a compiled loop is many times slower on CPU.
    grads, (state, sums) = of_piece(0)
    for index in range(1, num_pieces):
        more_grads, (state, more_sums) = of_piece(index)
        grads, sums = jax.tree.map(jnp.add, (grads, sums), (more_grads, more_sums))
    return jax.tree.map(lambda g: g / sums["num_examples"], grads), state, sums


def loss_form(training: TrainingConfig) -> LossForm:
    """Which loss is trained on."""
    binary = training.loss == "binary_cross_entropy"
    return LossForm(training.label_smoothing, binary, training.focal_gamma or 0.0)


def describe_loss(training: TrainingConfig, *, multi_label: bool) -> list[str]:
    """What the person watching should know of the loss, a line each."""
    if training.loss == "binary_cross_entropy" and not multi_label:
        return ["binary cross entropy of class numbers: each is 1 for its own class and 0 for all others"]
    return []


def compute_loss(logits: jax.Array, piece: Tree, form: LossForm) -> tuple[jax.Array, jax.Array]:
    """Sum of the losses of a piece of a batch, in nats, and how many examples it is of.

    Args:
        logits: float32 (b k).
        piece: As of `make_examples`, or a part of it.
        form: Which loss.
    """
    if "other_label" not in piece:
        return cross_entropy(logits, piece["label"], piece["mask"], form)
    labels = (piece["label"], piece["other_label"], piece["label_weight"])
    return mixed_cross_entropy(logits, *labels, piece["mask"], form)


def _average(ema: Variables | None, variables: Variables, step: jax.Array, decay: float | None) -> Variables | None:
    """Moving average whose decay starts low, so that the first random weights are forgotten."""
    if ema is None or decay is None:
        return None
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    averaged: Variables = jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, variables)
    return averaged


def stack_scalars(scalars: Scalars) -> jax.Array:
    """One float32 array in the order of `SCALARS`: reading one array costs a fifth of reading five."""
    return jnp.stack([scalars[name] for name in SCALARS])


def compile_train_step(
    step: TrainStep, layout: TrainState, mesh: Mesh, *, options: CompileOptions = MappingProxyType({})
) -> Callable[[TrainState, Tree], tuple[TrainState, jax.Array]]:
    """`step` jitted for the mesh; its state argument is donated.

    Args:
        step: One update; its scalars come as `stack_scalars` gives them.
        layout: Shardings of the state.
        mesh: Where to compute.
        options: Of XLA's compiler.
    """

    def train_step(state: TrainState, batch: Tree) -> tuple[TrainState, jax.Array]:
        with keep_examples_in_place(mesh, batch_size=len(batch["mask"])):
            state, scalars = step(state, batch)
        return state, stack_scalars(scalars)

    return jax.jit(
        train_step,
        in_shardings=(layout, batch_sharding(mesh)),
        out_shardings=(layout, replicated(mesh)),
        donate_argnums=0,
        compiler_options=dict(options) or None,
    )
