"""The network as one function of named weights and raw pixels; and the weights of a run under those names."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.augment import normalize
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.models.stacking import unstack_blocks, unstacked_spec
from mlvlab_jax.package.export import Forward, Weights
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec


def name_weights(variables: Variables) -> dict[str, np.ndarray]:
    """Parameters and model state on the host, as 'params/a/b/kernel' and 'state/...', whatever devices they lay on.

    Stacked blocks are taken apart: a package has a tree of parameters for each block, however it was trained.
    """
    params, state = jax.device_get(variables)
    return {name: np.asarray(leaf) for name, leaf in named_leaves(Variables(unstack_blocks(params), state))}


def make_forward(config: Config, *, num_classes: int, image: ImageSpec) -> tuple[Forward, dict[str, Any]]:
    """The network that `config` describes.

    Returns:
        The function, and the shape and type of each weight it takes, by name.

    Raises:
        ConfigError: There is no such network for these images.
    """
    dtype: Any = jnp.dtype(config.training.precision)
    model: Model = MODELS.build(unstacked_spec(config.model), num_classes=num_classes, image=image, dtype=dtype)
    like = jax.eval_shape(model.init, jax.random.key(0))
    structure, shapes = jax.tree.structure(like), dict(named_leaves(like))

    def forward(weights: Weights, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        variables: Variables = jax.tree.unflatten(structure, [weights[name] for name in shapes])
        return model.describe(variables, normalize(image, config.pipeline))

    return forward, shapes
