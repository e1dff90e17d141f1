"""Everything that changes during training, as one tree of arrays."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mlvlab_jax.engine.mesh import replicated
from mlvlab_jax.engine.sharding import shard_like, shard_params
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.optim.chain import Optimizer
from mlvlab_jax.types import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only.

    step: int32, updates made. variables: parameters and batch statistics. opt_state: of the optax chain, plateau
    included. ema: moving average of `variables`, or None. key: uint32 data of the run's PRNG key, which never changes;
    randomness comes from folding in the step.
    """

    step: jax.Array
    variables: Variables
    opt_state: Tree
    ema: Variables | None
    key: jax.Array

    @property
    def evaluated(self) -> Variables:
        """What is evaluated and delivered: the moving average where there is one."""
        return self.variables if self.ema is None else self.ema


def create_state(
    model: Model, optimizer: Optimizer, *, seed: int, with_ema: bool, mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """Initialises the state in place on the mesh: no device ever holds more than its part.

    Returns:
        The state, and the tree of its NamedShardings.
    """
    init = _make_init(model, optimizer, with_ema=with_ema)
    _, layout = describe_state(model, optimizer, with_ema=with_ema, mesh=mesh)
    state = jax.jit(init, out_shardings=layout)(jax.device_put(jax.random.key(seed), replicated(mesh)))
    return state, layout


def describe_state(model: Model, optimizer: Optimizer, *, with_ema: bool, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """What `create_state` would make, computing nothing.

    Returns:
        The tree of shapes and types of the state, and that of its NamedShardings.
    """
    shapes = jax.eval_shape(_make_init(model, optimizer, with_ema=with_ema), jax.random.key(0))
    params = shapes.variables.params
    return shapes, shard_like(shapes, params, shard_params(params, mesh), mesh)


def _make_init(model: Model, optimizer: Optimizer, *, with_ema: bool) -> Callable[[jax.Array], TrainState]:
    def init(key: jax.Array) -> TrainState:
        variables = model.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables=variables,
            opt_state=optimizer.tx.init(variables.params),
            ema=variables if with_ema else None,
            key=jax.random.key_data(key),
        )

    return init
