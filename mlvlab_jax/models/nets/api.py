"""What the rest of the project knows of a network: two pure functions over plain dicts."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlvlab_jax.types import ImageSpec, Tree


class Variables(NamedTuple):
    """A network's arrays: `params` are trained, `state` (batch statistics) is updated by the forward pass."""

    params: Tree
    state: Tree


class Model(NamedTuple):
    """A classifier as two pure functions, or three, and what is to be said of it.

    init: key -> Variables, the parameters float32.
    apply: (variables, image float (b h w c), key, train) -> (logits float32 (b k), new state). `key` is used, and the
        state changed, only where `train` is true.
    embed: (variables, image float (b h w c)) -> (logits, embedding float32 (b d)), in evaluation: the embedding is what
        the last layer is given. None: it is not known.
    intermediates: (variables, image float (b h w c)) -> what the parts of the network give, by name, in evaluation:
        block_00, ... of a transformer (b n d), stage_0, ... of a network of convolutions (b h w c), and the embedding.
        None: they are not known.
    notes: what the person watching a run should know of how the network runs, a line each.
    num_heads: attention heads, which the tensor axis of a mesh must not cut. None: there are none.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[[Variables, jax.Array, jax.Array, bool], tuple[jax.Array, Tree]]
    embed: Callable[[Variables, jax.Array], tuple[jax.Array, jax.Array]] | None = None
    intermediates: Callable[[Variables, jax.Array], dict[str, jax.Array]] | None = None
    notes: tuple[str, ...] = ()
    num_heads: int | None = None

    def describe(self, variables: Variables, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits and embedding of `embed`; without it the logits are their own embedding."""
        if self.embed is not None:
            return self.embed(variables, image)
        logits, _ = self.apply(variables, image, jax.random.key(0), False)
        return logits, logits


def from_linen(module: nn.Module, image: ImageSpec, *, notes: tuple[str, ...] = ()) -> Model:
    """A flax module `module(image, train)` as a `Model` for images of this shape.

    What the module itself sows into "intermediates" are its intermediates, and of these "embedding" is the embedding,
    float32 (b d). That collection is no part of the state, and nothing is sown in training or where only logits are
    asked for.
    """

    def init(key: jax.Array) -> Variables:
        variables = module.init({"params": key}, jnp.zeros((1, *image)), False)
        state = {name: tree for name, tree in variables.items() if name != "params"}
        return Variables(variables["params"], state)

    def apply(variables: Variables, image: jax.Array, key: jax.Array, train: bool) -> tuple[jax.Array, Tree]:
        arrays = {"params": variables.params, **variables.state}
        if not train:
            return module.apply(arrays, image, False), variables.state
        logits, updated = module.apply(arrays, image, True, rngs={"dropout": key}, mutable=list(variables.state))
        return logits, updated

    def intermediates(variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
        return run(variables, image)[1]

    def embed(variables: Variables, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, sown = run(variables, image)
        return logits, sown.get("embedding", logits)

    def run(variables: Variables, image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        arrays = {"params": variables.params, **variables.state}
        logits, sown = module.apply(arrays, image, False, mutable=["intermediates"])
        found = sown.get("intermediates", {})
        return logits, {name: values[-1] for name, values in found.items() if isinstance(values, tuple)}

    return Model(init, apply, embed, intermediates, notes)
