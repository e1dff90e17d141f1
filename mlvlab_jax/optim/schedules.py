"""Learning-rate schedules: the factor, in [0, 1], by which the peak learning rate is multiplied after `step` updates.

All but `plateau` are pure functions of the step. `plateau` also has state, which lives in the optimiser's state, is
saved with it, and is moved on by each validation loss.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.training import Fraction, Positive
from mlvlab_jax.optim.horizon import Horizon
from mlvlab_jax.plugins import SCHEDULES

NonNegative = Annotated[float, Field(ge=0)]


class Schedule(NamedTuple):
    """factor: step -> multiplier of the peak rate; plateau: when to lower it further, or None."""

    factor: Callable[[Any], Any]
    plateau: "PlateauParams | None" = None


@configclass
class ConstantParams:
    """Warm up, then stay."""

    warmup_epochs: NonNegative = 0.0
    """Epochs of linear warm-up from zero."""


@configclass
class DecayParams:
    """Warm up, then decay until the end of the run."""

    warmup_epochs: NonNegative = 0.0
    """Epochs of linear warm-up from zero."""
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor at the last step."""


@configclass
class RsqrtParams:
    """Warm up, decay with the inverse square root of time, cool down."""

    warmup_epochs: NonNegative = 0.0
    """Epochs of linear warm-up from zero."""
    timescale_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Epochs after which the factor has fallen to 0.71; four times that to 0.45."""
    cooldown_fraction: Fraction = 0.1
    """Last share of the run, in which the rate falls linearly to zero."""


@configclass
class WarmupStableDecayParams:
    """Warm up, stay, decay linearly to zero."""

    warmup_epochs: NonNegative = 0.0
    """Epochs of linear warm-up from zero."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Last share of the run, in which the rate falls linearly to zero."""


@configclass
class PlateauParams:
    """Lower the rate when the validation loss has stopped falling."""

    warmup_epochs: NonNegative = 0.0
    """Epochs of linear warm-up from zero."""
    reduction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Multiplies the rate at each plateau."""
    patience: Positive = 5
    """Evaluations without improvement that make a plateau."""
    min_delta: NonNegative = 1e-4
    """Smallest fall of the loss that counts as improvement."""
    min_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The rate is never lowered below this share of the peak."""


@SCHEDULES.register("constant", ConstantParams, example={"warmup_epochs": 1})
def constant(params: ConstantParams, *, horizon: Horizon) -> Schedule:
    """1."""
    return Schedule(_warm_up(horizon.steps(params.warmup_epochs), lambda step: 1.0 + 0.0 * step))


@SCHEDULES.register("cosine", DecayParams, example={"warmup_epochs": 1})
def cosine(params: DecayParams, *, horizon: Horizon) -> Schedule:
    """Half a cosine from 1 to the final factor.

    References:
        I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016.
    """
    import optax

    warmup = horizon.steps(params.warmup_epochs)
    decay = optax.cosine_decay_schedule(1.0, max(1, horizon.num_steps - warmup), params.final_factor)
    return Schedule(_warm_up(warmup, decay))


@SCHEDULES.register("linear", DecayParams, example={"warmup_epochs": 1})
def linear(params: DecayParams, *, horizon: Horizon) -> Schedule:
    """A straight line from 1 to the final factor."""
    import optax

    warmup = horizon.steps(params.warmup_epochs)
    decay = optax.linear_schedule(1.0, params.final_factor, max(1, horizon.num_steps - warmup))
    return Schedule(_warm_up(warmup, decay))


@SCHEDULES.register("rsqrt", RsqrtParams, example={"warmup_epochs": 1})
def rsqrt(params: RsqrtParams, *, horizon: Horizon) -> Schedule:
    """1 / sqrt(1 + time / timescale), then a linear cool-down.

    References:
        X. Zhai, A. Kolesnikov, N. Houlsby, L. Beyer, "Scaling Vision Transformers", 2021.
    """
    timescale = max(1.0, params.timescale_epochs * horizon.steps_per_epoch)
    cool = _cool_down(horizon.num_steps, params.cooldown_fraction)
    warmup = horizon.steps(params.warmup_epochs)
    return Schedule(_warm_up(warmup, lambda step: (1 + step / timescale) ** -0.5 * cool(step + warmup)))


@SCHEDULES.register("wsd", WarmupStableDecayParams, example={"warmup_epochs": 1})
def warmup_stable_decay(params: WarmupStableDecayParams, *, horizon: Horizon) -> Schedule:
    """1 until the last part of the run, then a straight line to zero.

    References:
        S. Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models", 2024.
    """
    cool = _cool_down(horizon.num_steps, params.decay_fraction)
    warmup = horizon.steps(params.warmup_epochs)
    return Schedule(_warm_up(warmup, lambda step: cool(step + warmup)))


@SCHEDULES.register("plateau", PlateauParams, example={"patience": 1})
def plateau(params: PlateauParams, *, horizon: Horizon) -> Schedule:
    """1, lowered by `optax.contrib.reduce_on_plateau` at each plateau of the validation loss."""
    return Schedule(_warm_up(horizon.steps(params.warmup_epochs), lambda step: 1.0 + 0.0 * step), params)


def _warm_up(num_steps: int, after: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Linear from 1 / num_steps (the first update moves) to 1, then `after`, whose steps count from there."""
    import jax.numpy as jnp

    def factor(step: Any) -> Any:
        if num_steps == 0:
            return after(step)
        return jnp.where(step < num_steps, (step + 1) / num_steps, after(jnp.maximum(step - num_steps, 0)))

    return factor


def _cool_down(num_steps: int, fraction: float) -> Callable[[Any], Any]:
    import jax.numpy as jnp

    length = max(1.0, fraction * num_steps)
    return lambda step: jnp.clip((num_steps - step) / length, 0.0, 1.0)
