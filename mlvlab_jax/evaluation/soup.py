"""Model soups: the mean of the weights that several runs of one network have ended with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from mlvlab_jax.config.load import diff_identity
from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.trees import map_with_name

#: What may differ: how a run was trained. Not which examples were held out, nor what the network is given.
_FREE = (
    *("training.", "optimizer.", "schedule.", "weights.", "mesh.", "compile_options."),
    *("pipeline.augment.", "pipeline.class_", "pipeline.repeats", "evaluation.every_epochs"),
)


class Ingredient(NamedTuple):
    """A checkpoint of a run: its weights as plain arrays, and what the validation split says of them."""

    workdir: Path
    step: int
    variables: Variables
    value: float


class Soup(NamedTuple):
    """variables: the mean. used: of which, the best first. value: what the validation split says of it."""

    variables: Variables
    used: tuple[Ingredient, ...]
    value: float


def check_alike(workdirs: Sequence[Path]) -> Config:
    """The configuration of the first run, if the weights of all mean the same and all held out the same examples.

    Raises:
        ConfigError: Lists what differs, by run; or a run has adapters.
    """
    configs = [read_config(workdir) for workdir in workdirs]
    lines = []
    for workdir, config in zip(workdirs, configs, strict=True):
        if config.training.lora is not None:
            raise ConfigError(
                f"{workdir}: was trained with adapters, whose mean is not that of the networks; expected runs without "
                "training.lora; leave it out"
            )
        lines += [f"  {workdir}: {line}" for line in diff_identity(configs[0], config) if not line.startswith(_FREE)]
    if lines:
        listed = "\n".join(lines)
        raise ConfigError(
            f"other than {workdirs[0]}:\n{listed}\nexpected the same network, data and seed, which decides what is "
            "held out; only how a run was trained may differ; leave those runs out"
        )
    return configs[0]


def measure_on_validation(config: Config, experiment: Experiment) -> Callable[[Variables], float]:
    """What the validation split says of weights, by the metric that early stopping watches.

    Raises:
        ConfigError: There is no such split.
    """
    split, name = experiment.data.splits.get("validation"), config.training.early_stopping.monitor
    if split is None:
        raise ConfigError("no validation split to judge by; expected one", path="pipeline.validation_fraction")

    def measure(variables: Variables) -> float:
        placed = jax.device_put(variables, experiment.layout.evaluated)
        return experiment.evaluator(placed, split, on_bad=lambda found: None).scalars[name]

    return measure


def read_ingredient(workdir: Path, experiment: Experiment, measure: Callable[[Variables], float]) -> Ingredient:
    """The best state of a run, measured.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    config = read_config(workdir)
    mode = config.training.early_stopping.mode
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode=mode, read_only=True) as store:
        step = store.resolve("best")
        arrays = store.read_arrays(step)
    place = "ema" if any(name.startswith("ema/") for name in arrays) else "variables"
    variables: Variables = map_with_name(lambda name, _: arrays[f"{place}/{name}"], experiment.layout.evaluated)
    return Ingredient(workdir, step, variables, measure(variables))


def average(several: Sequence[Variables]) -> Variables:
    """The mean, added up in float64; counts and other whole numbers are those of the first."""

    def mean(*leaves: np.ndarray) -> np.ndarray:
        first = np.asarray(leaves[0])
        if not np.issubdtype(first.dtype, np.floating):
            return first
        return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(first.dtype)

    mixed: Variables = jax.tree.map(mean, *several)
    return mixed


def cook(
    ingredients: Sequence[Ingredient], measure: Callable[[Variables], float], *, greedy: bool, higher: bool
) -> Soup:
    """The mean of all; or, greedily, of those that make it no worse, tried from the best to the worst.

    Args:
        ingredients: At least one.
        measure: What the validation split says of weights.
        greedy: Whether some may be left out.
        higher: Whether a higher value is better.

    References:
        M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time", 2022.
    """
    ranked = sorted(ingredients, key=lambda each: -each.value if higher else each.value)
    if not greedy:
        mixed = average([each.variables for each in ranked])
        return Soup(mixed, tuple(ranked), measure(mixed))
    soup = Soup(ranked[0].variables, (ranked[0],), ranked[0].value)
    for each in ranked[1:]:
        used = (*soup.used, each)
        mixed = average([one.variables for one in used])
        value = measure(mixed)
        if value >= soup.value if higher else value <= soup.value:
            soup = Soup(mixed, used, value)
    return soup
