"""One optax chain from the configuration: clip, update rule with its schedule, plateau."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.optim.fine_tuning import tune
from mlvlab_jax.optim.horizon import Horizon
from mlvlab_jax.optim.optimizers import Averaging
from mlvlab_jax.optim.schedules import PlateauParams, Schedule
from mlvlab_jax.plugins import OPTIMIZERS, SCHEDULES, Spec
from mlvlab_jax.types import Tree


class Optimizer(NamedTuple):
    """tx: the transformation; learning_rate: (step, opt_state) -> the rate of the next update;
    observe: (opt_state, validation loss) -> opt_state, or None where no schedule listens. averaged: (opt_state,
    parameters) -> those that are evaluated, or None where that is not the rule's business.
    """

    tx: optax.GradientTransformation
    learning_rate: Callable[[Any, Tree], jax.Array]
    observe: Callable[[Tree, jax.Array], Tree] | None
    averaged: Callable[[Tree, Tree], Tree] | None = None

    def keeps_average(self, training: TrainingConfig) -> bool:
        """Whether other weights are evaluated than those that are trained."""
        return self.averaged is not None or training.ema_decay is not None


def make_optimizer(optimizer: Spec, schedule: Spec, training: TrainingConfig, horizon: Horizon) -> Optimizer:
    """Builds the chain.

    Raises:
        ConfigError: The rule does not go together with another part of the configuration.
    """
    plan: Schedule = SCHEDULES.build(schedule, horizon=horizon)
    peak = training.learning_rate

    def scheduled(step: Any) -> Any:
        return peak * plan.factor(step)

    rule = OPTIMIZERS.build(optimizer, learning_rate=scheduled)
    averaged = _find_average(rule, optimizer.name, training, plan)
    links = [tune(rule, training, horizon)]
    if training.gradient_clip_norm is not None:
        links.insert(0, optax.clip_by_global_norm(training.gradient_clip_norm))
    if plan.plateau is None:
        return Optimizer(optax.chain(*links), lambda step, opt_state: jnp.asarray(scheduled(step)), None, averaged)
    plateau = _make_plateau(plan.plateau)
    scale_by_plateau = optax.GradientTransformation(
        lambda params: plateau.init(params),
        lambda updates, state, params=None: (jax.tree.map(lambda u: u * state.scale, updates), state),
    )

    def observe(opt_state: Tree, loss: jax.Array) -> Tree:
        return (*opt_state[:-1], plateau.update({}, opt_state[-1], value=loss)[1])

    return Optimizer(
        optax.chain(*links, scale_by_plateau),
        lambda step, opt_state: scheduled(step) * opt_state[-1].scale,
        observe,
    )


def _find_average(
    rule: Any, name: str, training: TrainingConfig, plan: Schedule
) -> Callable[[Tree, Tree], Tree] | None:
    """`Optimizer.averaged` of an update rule."""
    if not isinstance(rule, Averaging):
        return None
    others = {f"training.{key}": getattr(training, key) for key in ("ema_decay", "freeze", "lora", "layer_decay")}
    others["schedule.name: plateau"] = plan.plateau
    if clashing := [key for key, value in others.items() if value]:
        raise ConfigError(
            f"{name} keeps an average of all weights by itself, which {', '.join(clashing)} would spoil; leave "
            f"{'it' if len(clashing) == 1 else 'them'} out, or take adamw",
            path="optimizer.name",
        )
    return lambda opt_state, params: rule.averaged(opt_state[-1], params)


def _make_plateau(params: PlateauParams) -> optax.GradientTransformationExtraArgs:
    return contrib.reduce_on_plateau(
        factor=params.reduction,
        patience=params.patience,
        rtol=0.0,
        atol=params.min_delta,
        min_scale=params.min_factor,
    )
