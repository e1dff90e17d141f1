"""Everything that changes during training, as one tree of arrays."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mlvlab_jax.engine.mesh import replicate
from mlvlab_jax.engine.sharding import check_heads, shard_like, shard_params
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.optim.chain import Optimizer
from mlvlab_jax.types import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only.

    step: int32, updates made. variables: parameters and batch statistics. opt_state: of the optax chain, plateau
    included. ema: moving average of `variables`, or None. key: uint32 data of the run's PRNG key, which never changes;
    randomness comes from folding in the step. recent_losses: float32 (window), the last one at the end, where updates
    of sudden losses are left out, else None.
    """

    step: jax.Array
    variables: Variables
    opt_state: Tree
    ema: Variables | None
    key: jax.Array
    recent_losses: jax.Array | None = None

    @property
    def evaluated(self) -> Variables:
        """What is evaluated and delivered: the moving average where there is one."""
        return self.variables if self.ema is None else self.ema

    def present(self) -> dict[str, Tree]:
        """The fields that hold something, by name: what is saved, so that a field that comes to be leaves others be."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}


def create_state(
    model: Model,
    optimizer: Optimizer,
    *,
    seed: int,
    with_ema: bool,
    mesh: Mesh,
    rules: Sequence[tuple[str, str]] = (),
    num_losses: int | None = None,
) -> tuple[TrainState, TrainState]:
    """Initialises the state in place on the mesh: no device ever holds more than its part.

    Args:
        model: The network.
        optimizer: Its optimiser.
        seed: Decides every random number of the run.
        with_ema: Whether a moving average is kept.
        mesh: Where the state lies.
        rules: `mesh.rules` of the configuration.
        num_losses: How many recent ones are kept; None keeps no record.

    Returns:
        The state, and the tree of its NamedShardings.

    Raises:
        ConfigError: As `describe_state`.
    """
    init = _make_init(model, optimizer, with_ema=with_ema, num_losses=num_losses)
    _, layout = describe_state(model, optimizer, with_ema=with_ema, mesh=mesh, rules=rules, num_losses=num_losses)
    key_data = jax.device_get(jax.random.key_data(jax.random.key(seed)))
    state = jax.jit(init, out_shardings=layout)(replicate(key_data, mesh))
    return state, layout


def describe_state(
    model: Model,
    optimizer: Optimizer,
    *,
    with_ema: bool,
    mesh: Mesh,
    rules: Sequence[tuple[str, str]] = (),
    num_losses: int | None = None,
) -> tuple[TrainState, TrainState]:
    """What `create_state` would make, computing nothing.

    Returns:
        The tree of shapes and types of the state, and that of its NamedShardings.

    Raises:
        ConfigError: The mesh or a rule does not fit the model.
    """
    check_heads(model.num_heads, mesh)
    key_data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    shapes = jax.eval_shape(_make_init(model, optimizer, with_ema=with_ema, num_losses=num_losses), key_data)
    params = shapes.variables.params
    return shapes, shard_like(shapes, params, shard_params(params, mesh, rules=rules), mesh)


def _make_init(
    model: Model, optimizer: Optimizer, *, with_ema: bool, num_losses: int | None
) -> Callable[[jax.Array], TrainState]:
    def init(key_data: jax.Array) -> TrainState:
        key = jax.random.wrap_key_data(key_data)
        variables = model.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables=variables,
            opt_state=optimizer.tx.init(variables.params),
            ema=variables if with_ema else None,
            key=key_data,
            recent_losses=None if num_losses is None else jnp.full(num_losses, jnp.nan),
        )

    return init
