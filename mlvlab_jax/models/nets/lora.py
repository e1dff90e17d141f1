"""Low-rank adaptation: kernels that stay as they are, each plus a product of two thin matrices that is trained.

The matrices lie beside their kernel, as `lora_a` (inputs, rank) and `lora_b` (rank, outputs); stacked blocks have one
pair for each block.

References:
    E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mlvlab_jax.config.training import LoraConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.trees import is_stacked
from mlvlab_jax.types import Tree

_NAMES = ("lora_a", "lora_b")


def add_adapters(model: Model, lora: LoraConfig) -> Model:
    """`model` with adapters; at first they change nothing, as `lora_b` is zero.

    Raises:
        ConfigError: When it is initialised: `lora.kernels` matches no matrix.
    """

    def init(key: jax.Array) -> Variables:
        variables = model.init(key)
        params, count = _insert(variables.params, lora, key, ())
        if not count:
            raise ConfigError(
                f"{lora.kernels!r} is found in no kernel of two dims; expected some, such as those of a vision "
                "transformer; correct it, or leave out lora",
                path="training.lora.kernels",
            )
        return Variables(params, variables.state)

    def apply(variables: Variables, image: jax.Array, key: jax.Array, train: bool) -> tuple[jax.Array, Tree]:
        return model.apply(merge_adapters(variables, lora), image, key, train)

    changes: dict[str, Any] = {"init": init, "apply": apply}
    for name in ("embed", "intermediates"):
        if (function := getattr(model, name, None)) is not None:
            changes[name] = lambda variables, image, f=function: f(merge_adapters(variables, lora), image)
    return model._replace(**changes)


def merge_adapters(variables: Variables, lora: LoraConfig | None) -> Variables:
    """The same network without adapters: each product is added to its kernel, times `lora.alpha` / `lora.rank`."""
    if lora is None:
        return variables
    return Variables(_merge(variables.params, lora.alpha / lora.rank), variables.state)


def _insert(tree: Tree, lora: LoraConfig, key: jax.Array, path: tuple[str, ...]) -> tuple[Tree, int]:
    """The tree with adapters, and how many."""
    made: dict[str, Any] = {}
    count = 0
    for name, value in tree.items():
        if isinstance(value, Mapping):
            made[name], more = _insert(value, lora, key, (*path, name))
            count += more
            continue
        made[name] = value
        full = "/".join((*path, name))
        if name == "kernel" and value.ndim - is_stacked(full) == 2 and re.search(lora.kernels, full):
            *stack, inputs, outputs = value.shape
            own = jax.random.fold_in(key, zlib.crc32(full.encode()))
            made["lora_a"] = jax.random.normal(own, (*stack, inputs, lora.rank)) / jnp.sqrt(inputs)
            made["lora_b"] = jnp.zeros((*stack, lora.rank, outputs))
            count += 1
    return made, count


def _merge(tree: Tree, scale: float) -> Tree:
    if not isinstance(tree, Mapping):
        return tree
    made = {name: _merge(value, scale) for name, value in tree.items() if name not in _NAMES}
    if "lora_a" in tree:
        made["kernel"] = tree["kernel"] + scale * (tree["lora_a"] @ tree["lora_b"])
    return made
