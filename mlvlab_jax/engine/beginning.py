"""The state at step 0 of a run that starts from weights in place of chance."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import DataError
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.models.stacking import stack_blocks
from mlvlab_jax.trees import is_stacked, map_with_name, named_leaves
from mlvlab_jax.types import Tree
from mlvlab_jax.weights.adapt import Classes
from mlvlab_jax.weights.files import read_weights
from mlvlab_jax.weights.importing import Imported, Target, import_weights


class Beginning(NamedTuple):
    """state: at step 0. provenance: where its weights are from, as the manifest has it; None of those of chance. notes:
    what the person watching should know of them, a line each.
    """

    state: TrainState
    provenance: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def begin(config: Config, experiment: Experiment, *, workdir: Path | None) -> Beginning:
    """The state that a run begins with, whose weights are read now.

    Args:
        config: Of the run.
        experiment: The same made real.
        workdir: Run folder; weights that its manifest names must still be the same. None: of no run.

    Raises:
        ConfigError: The network has arrays that the weights have no place for.
        DataError: The weights do not fit, or are others than those that the run began with.
    """
    if config.weights is None:
        held = [name for name in ("lora", "freeze") if getattr(config.training, name)]
        told = [f"training.{name} without weights: what is not trained stays as chance made it" for name in held]
        return Beginning(experiment.state, notes=tuple(told))
    names = experiment.data.class_names
    target = Target(config.model, experiment.data.spec, Classes(len(names), names))
    file = read_weights(config.weights.path)
    path = None if workdir is None else workdir / "manifest.json"
    noted = json.loads(path.read_text()).get("weights") if path is not None and path.exists() else None
    if noted is not None and noted["sha256"] != file.sha256:
        raise DataError(
            f"{file.source}: SHA-256 {file.sha256}; the run in {workdir} began with {noted['sha256']}; bring that file "
            "back, or give another --workdir"
        )
    imported = import_weights(file, target, config.weights)
    state = _adopt(imported, experiment, with_ema=experiment.state.ema is not None)
    provenance = imported.provenance
    begun = f"begins with {file.source} ({provenance['format']}, SHA-256 {file.sha256[:12]})"
    return Beginning(state, provenance, (begun, *provenance["changed"], *imported.notes))


def _adopt(imported: Imported, experiment: Experiment, *, with_ema: bool) -> TrainState:
    """The state at step 0 with these weights in the place of those that are there, each device holding its part."""
    state, layout = experiment.state, experiment.layout
    stacked = any(is_stacked(name) for name, _ in named_leaves(state.variables))
    arrays = _stack(imported.arrays) if stacked else imported.arrays

    def place(name: str, own: jax.Array) -> jax.Array:
        if name not in arrays:
            return own
        array = np.asarray(arrays[name])
        return jax.make_array_from_callback(own.shape, own.sharding, lambda index: array[index])

    variables: Variables = map_with_name(place, state.variables)

    def follow(variables: Variables) -> tuple[Tree, Variables | None]:
        # A copy of its own: the step gives both away.
        ema = jax.tree.map(jnp.copy, variables) if with_ema else None
        return experiment.optimizer.tx.init(variables.params), ema

    opt_state, ema = jax.jit(follow, out_shardings=(layout.opt_state, layout.ema))(variables)
    return dataclasses.replace(state, variables=variables, opt_state=opt_state, ema=ema)


def _stack(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by name with the blocks of a transformer as one."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return dict(named_leaves(tree | {"params": stack_blocks(tree["params"])}))
