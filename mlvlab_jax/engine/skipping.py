"""Updates that would spoil a run, found and left out on the device, where that costs nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from mlvlab_jax.config.training import LossSpikeConfig, TrainingConfig
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.types import Tree


def describe_gradients(grads: Tree) -> dict[str, jax.Array]:
    """Global L2 norm, how many parameters' gradients are not finite, and the index of the first of them."""
    squared = [optax.tree.norm(leaf, squared=True) for leaf in jax.tree.leaves(grads)]
    finite = jnp.isfinite(jnp.stack(squared))
    return {
        "grad_norm": jnp.sqrt(sum(squared)),
        "num_bad_grads": (~finite).sum().astype(jnp.float32),
        "first_bad_grad": finite.argmin().astype(jnp.float32),
    }


def guards(training: TrainingConfig) -> bool:
    """Whether an update may be left out by the device."""
    return training.non_finite.policy == "skip" or training.loss_spikes is not None


def keep_good(
    training: TrainingConfig, old: TrainState, new: TrainState, updates: Tree, scalars: dict[str, jax.Array]
) -> tuple[TrainState, jax.Array]:
    """The new state, or the old one, all of it, where the update is not to be applied.

    Args:
        training: Says which updates are left out.
        old: State before the update.
        new: State after it.
        updates: What was added to the parameters.
        scalars: loss_sum, num_examples and grad_norm of the step.

    Returns:
        The state, and 1.0 where the update was applied, else 0.0.
    """
    loss = scalars["loss_sum"] / scalars["num_examples"]
    applied = jnp.isfinite(loss) & jnp.isfinite(scalars["grad_norm"]) & jnp.isfinite(optax.tree.norm(updates))
    recent = old.recent_losses
    if training.loss_spikes is not None and recent is not None:
        applied &= ~is_spike(loss, recent, training.loss_spikes)
        recent = jnp.where(jnp.isfinite(loss), jnp.append(recent[1:], loss), recent)
    kept: TrainState = jax.tree.map(lambda before, after: jnp.where(applied, after, before), old, new)
    return dataclasses.replace(kept, recent_losses=recent), applied.astype(jnp.float32)


def is_spike(loss: jax.Array, recent: jax.Array, config: LossSpikeConfig) -> jax.Array:
    """Whether a loss is far above those before it; never until half a window of them is there.

    Spikes become part of the window, so that a loss that stays high is taken for what it is now.

    Args:
        loss: Mean loss of the batch, ().
        recent: Losses of the steps before, float32 (window), not a number where there was none yet.
        config: Window, and how far.

    References:
        OLMo 2 Team, "2 OLMo 2 Furious", 2024: updates skipped beyond six standard deviations of 128 losses.
    """
    known = jnp.isfinite(recent)
    count = known.sum()
    mean = jnp.where(known, recent, 0).sum() / jnp.maximum(count, 1)
    variance = jnp.where(known, jnp.square(recent - mean), 0).sum() / jnp.maximum(count - 1, 1)
    return (count >= config.window // 2) & (loss > mean + config.sigmas * jnp.sqrt(variance))
