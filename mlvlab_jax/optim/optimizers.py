"""Update rules from optax, behind one plugin table."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.plugins import OPTIMIZERS

Beta = Annotated[float, Field(ge=0, lt=1)]

#: Weight decay spares one-dimensional parameters and embeddings; the first rule that matches decides.
DEFAULT_DECAY_RULES = (("(bias|scale|cls|registers|pos_embed)$", False), (".*", True))


class Averaging(NamedTuple):
    """An optax transformation whose steps are taken beside the weights that are meant.

    init, update: as of `optax.GradientTransformation`. averaged: (its state, parameters that are trained) -> those that
    are evaluated and delivered.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    averaged: Callable[[Any, Any], Any]


@configclass
class _WeightDecay:
    weight_decay: float = Field(
        default=0.0, ge=0, description="Share of each decayed weight that is subtracted per unit of learning rate."
    )
    decay_rules: tuple[tuple[str, bool], ...] = Field(
        default=DEFAULT_DECAY_RULES,
        description="[regular expression on the parameter's name, decay or not]; first match wins, all must match.",
    )


@configclass
class SgdParams(_WeightDecay):
    """Stochastic gradient descent."""

    momentum: Beta = 0.9
    """Share of the last update that is kept."""
    nesterov: bool = True
    """Look ahead along the momentum."""


@configclass
class _FirstMoment:
    mu_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Type the mean of gradients (the momentum) is kept in; bfloat16 takes half the memory.",
    )


@configclass
class AdamWParams(_FirstMoment, _WeightDecay):
    """Adam with decoupled weight decay."""

    b1: Beta = 0.9
    """Decay of the mean of gradients."""
    b2: Beta = 0.999
    """Decay of the mean of squared gradients; 0.95 is calmer for transformers."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the squared mean."""


@configclass
class LambParams(_FirstMoment, _WeightDecay):
    """Layer-wise scaled Adam, for very large batches."""

    b1: Beta = 0.9
    """Decay of the mean of gradients."""
    b2: Beta = 0.999
    """Decay of the mean of squared gradients."""


@configclass
class MuonParams(_FirstMoment, _WeightDecay):
    """Orthogonalised momentum for matrices and convolutions; AdamW for everything else, the classifier included."""

    beta: Beta = 0.95
    """Share of the momentum that is kept."""
    b1: Beta = 0.9
    """AdamW's decay of the mean of gradients."""
    b2: Beta = 0.999
    """AdamW's decay of the mean of squared gradients."""


@configclass
class ScheduleFreeParams(_WeightDecay):
    """AdamW without a decay of the learning rate: an average of the weights takes its place, and is evaluated.

    For schedules that stay: constant with a warm-up. Batch statistics are those of the weights that are trained.
    """

    b1: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Where the gradient is taken: this share of the average, the rest of the fast weights."""
    b2: Beta = 0.999
    """Decay of the mean of squared gradients."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the squared mean."""


@OPTIMIZERS.register("sgd", SgdParams)
def sgd(params: SgdParams, *, learning_rate: Any) -> Any:
    """Momentum SGD; the decay is part of the gradient, as is usual for it."""
    import optax

    decay = optax.add_decayed_weights(params.weight_decay, _decay_mask(params))
    return optax.chain(decay, optax.sgd(learning_rate, params.momentum or None, params.nesterov))


@OPTIMIZERS.register("adamw", AdamWParams)
def adamw(params: AdamWParams, *, learning_rate: Any) -> Any:
    """AdamW.

    References:
        I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2017.
    """
    import optax

    return optax.adamw(
        learning_rate,
        b1=params.b1,
        b2=params.b2,
        eps=params.eps,
        mu_dtype=params.mu_dtype,
        weight_decay=params.weight_decay,
        mask=_decay_mask(params),
    )


@OPTIMIZERS.register("lamb", LambParams)
def lamb(params: LambParams, *, learning_rate: Any) -> Any:
    """LAMB.

    References:
        Y. You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2019.
    """
    import optax

    return optax.chain(
        optax.scale_by_adam(params.b1, params.b2, eps=1e-6, mu_dtype=params.mu_dtype),
        optax.add_decayed_weights(params.weight_decay, _decay_mask(params)),
        _scale_by_trust_ratio(),
        optax.scale_by_learning_rate(learning_rate),
    )


@OPTIMIZERS.register("muon", MuonParams)
def muon(params: MuonParams, *, learning_rate: Any) -> Any:
    """Muon, its updates scaled to the size of AdamW's, so that one learning rate serves both.

    References:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
        J. Liu et al., "Muon is Scalable for LLM Training", 2025 (the scaling).
    """
    import optax
    from optax import contrib

    direction = contrib.muon(
        -1.0,  # its sign is turned back; the rate comes last, so that the decay below is scaled by it too
        beta=params.beta,
        adam_b1=params.b1,
        adam_b2=params.b2,
        mu_dtype=params.mu_dtype,
        muon_weight_dimension_numbers=_muon_dims,
        consistent_rms=0.2,
    )
    decay = optax.add_decayed_weights(params.weight_decay, _decay_mask(params))
    return optax.chain(direction, decay, optax.scale_by_learning_rate(learning_rate))


@OPTIMIZERS.register("schedule_free_adamw", ScheduleFreeParams)
def schedule_free_adamw(params: ScheduleFreeParams, *, learning_rate: Any) -> Averaging:
    """Schedule-free AdamW.

    References:
        A. Defazio et al., "The Road Less Scheduled", 2024.
    """
    import optax
    from optax import contrib

    without_momentum = optax.chain(
        optax.scale_by_rms(params.b2, params.eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(params.weight_decay, _decay_mask(params)),
        optax.scale_by_learning_rate(learning_rate),
    )
    made = contrib.schedule_free(without_momentum, learning_rate, params.b1)
    return Averaging(made.init, made.update, contrib.schedule_free_eval_params)


def _decay_mask(params: _WeightDecay) -> Any:
    from mlvlab_jax.trees import map_with_name, match_rules

    rules = params.decay_rules
    return lambda tree: map_with_name(
        lambda name, leaf: match_rules(name, rules, path="optimizer.params.decay_rules"), tree
    )


def _scale_by_trust_ratio() -> Any:
    """LAMB's scale of each layer, of stacked layers each by its own."""
    import jax
    import optax

    from mlvlab_jax.trees import is_stacked, map_with_name

    ratio = optax.scale_by_trust_ratio()

    def scale(update: Any, param: Any) -> Any:
        return ratio.update(update, optax.EmptyState(), param)[0]

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        def of_leaf(name: str, update: Any, param: Any) -> Any:
            return jax.vmap(scale)(update, param) if is_stacked(name) else scale(update, param)

        return map_with_name(of_leaf, updates, params), state

    return optax.GradientTransformation(ratio.init, update)


def _muon_dims(tree: Any) -> Any:
    """Which parameters Muon takes, and which of their dims are inputs and outputs; None leaves one to AdamW.

    The first dim of stacked layers is neither: each layer is a matrix of its own.
    """
    from optax import contrib

    from mlvlab_jax.trees import is_stacked, map_with_name

    def dims(name: str, leaf: Any) -> Any:
        first = 1 if is_stacked(name) else 0
        if not name.endswith("kernel") or "head" in name or leaf.ndim - first not in (2, 4):
            return None
        return contrib.MuonDimensionNumbers(
            reduction_axis=tuple(range(first, leaf.ndim - 1)), output_axis=leaf.ndim - 1
        )

    return map_with_name(dims, tree)
