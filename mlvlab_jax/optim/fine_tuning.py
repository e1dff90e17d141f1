"""Which parameters of a network that has been trained before are trained on, when, and how fast."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlvlab_jax.config.training import FreezeConfig, TrainingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.optim.horizon import Horizon
from mlvlab_jax.trees import is_stacked, map_with_name, named_leaves
from mlvlab_jax.types import Tree

_LAST = re.compile(r"^(head|norm|pool)(/|$)")
_LAYER = re.compile(r"^block(\d+)(?:/|$)|^stage(\d+)_(?:(\d+)|[a-z])")


def list_rules(training: TrainingConfig) -> tuple[FreezeConfig, ...]:
    """`training.freeze`, and what adapters want frozen."""
    if training.lora is None:
        return training.freeze
    adapted = FreezeConfig(params=f"^(?!.*lora_[ab]$)(?!.*(?:{training.lora.trained}))")
    return (*training.freeze, adapted)


def hold_frozen(params: Tree, training: TrainingConfig) -> Tree:
    """`params`, of which those frozen for the whole run have no gradient, so that none is computed."""
    rules = [rule for rule in list_rules(training) if rule.until_epoch is None]
    if not rules:
        return params
    return map_with_name(lambda name, x: jax.lax.stop_gradient(x) if _matches(name, rules) else x, params)


def tune(inner: optax.GradientTransformation, training: TrainingConfig, horizon: Horizon) -> Any:
    """`inner` with `training.freeze` and `training.layer_decay`.

    Parameters frozen for the whole run have no state; those frozen for a while have, which is kept up meanwhile, so
    that their first updates are of the usual size.

    Raises:
        ConfigError: When its state is made: a rule matches no parameter, nothing is left to train, or the network's
            layers have no names that tell their order.
    """
    links, rules = [], list_rules(training)
    if rules:
        links.append(_freeze(inner, rules))
        if any(rule.until_epoch is not None for rule in rules):
            links.append(_hold_until(rules, horizon))
    if training.layer_decay is not None:
        decay = training.layer_decay
        links += [] if rules else [inner]
        links.append(optax.stateless(lambda updates, params: jax.tree.map(_times, updates, scales(updates, decay))))
    return optax.chain(*links) if links else inner


def _freeze(inner: optax.GradientTransformation, rules: Sequence[FreezeConfig]) -> Any:
    whole = [rule for rule in rules if rule.until_epoch is None]

    def label(params: Tree) -> Tree:
        names = [name for name, _ in named_leaves(params)]
        for number, rule in enumerate(rules):
            if not any(re.search(rule.params, name) for name in names):
                raise ConfigError(
                    f"{rule.params!r} is found in none of {len(names)} parameters, such as {', '.join(names[:3])}; "
                    "correct it, or remove the rule",
                    path=f"training.freeze[{number}].params",
                )
        if all(_matches(name, whole) for name in names):
            raise ConfigError("all parameters are frozen; expected some to train", path="training.freeze")
        return map_with_name(lambda name, _: "frozen" if _matches(name, whole) else "trained", params)

    return optax.partition({"trained": inner, "frozen": optax.set_to_zero()}, label)


def _hold_until(rules: Sequence[FreezeConfig], horizon: Horizon) -> optax.GradientTransformation:
    """No updates of parameters that are frozen for a while, until then; its state counts them."""

    def update(updates: Tree, count: jax.Array, params: Tree | None = None) -> tuple[Tree, jax.Array]:
        def hold(name: str, value: jax.Array) -> jax.Array:
            ends = [r.until_epoch for r in rules if r.until_epoch is not None and re.search(r.params, name)]
            return jnp.where(count >= horizon.steps(max(ends)), value, 0) if ends else value

        return map_with_name(hold, updates), count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def _matches(name: str, rules: Sequence[FreezeConfig]) -> bool:
    return any(re.search(rule.params, name) for rule in rules)


def scales(params: Tree, decay: float) -> Tree:
    """What `training.layer_decay` makes of the learning rate of each parameter: decay ** layers between it and the end.

    The head, the last norm and the pooling count as one layer, so does all that comes before the first block.

    Returns:
        Floats; of stacked blocks one for each, float32 (num_blocks).

    Raises:
        ConfigError: Neither blocks nor stages are found.

    References:
        H. Bao, L. Dong, S. Piao, F. Wei, "BEiT: BERT Pre-Training of Image Transformers", 2021.
    """
    found = {name: _position(name) for name, _ in named_leaves(params)}
    num_stacked = max((leaf.shape[0] for name, leaf in named_leaves(params) if is_stacked(name)), default=0)
    order = sorted({position for position in found.values() if position is not None})
    if not order and not num_stacked:
        raise ConfigError(
            f"the order of the layers is not known from the parameters {', '.join(list(found)[:3])}, ...; expected "
            "block0, block1, ... or stage0_0, stage0_1, ...; leave it out",
            path="training.layer_decay",
        )
    num_layers = len(order) or num_stacked

    def scale(name: str, leaf: Any) -> Any:
        if is_stacked(name):
            return decay ** np.arange(num_layers, 0, -1, dtype=np.float32)
        if _LAST.search(name):
            return 1.0
        position = found[name]
        return float(decay ** (num_layers + 1 if position is None else num_layers - order.index(position)))

    return map_with_name(scale, params)


def _position(name: str) -> tuple[int, int] | None:
    """Stage and block of a parameter; None of what comes before the first block, or after the last."""
    match = _LAYER.search(name)
    if match is None:
        return None
    block, stage, index = match.groups()
    if stage is None:
        return 0, int(block)
    # What makes a stage's images smaller belongs to its first block; in the first stage it is the stem.
    return None if int(stage) == 0 and index is None else (int(stage), int(index or 0))


def _times(update: jax.Array, scale: Any) -> jax.Array:
    if isinstance(scale, float):
        return update * scale
    return update * scale.reshape(-1, *[1] * (update.ndim - 1))
