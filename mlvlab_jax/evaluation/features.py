"""What a network's last layer is given, of every example of some data."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.quarantine import BadExample
from mlvlab_jax.engine.beginning import begin
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.predict import Predictor
from mlvlab_jax.errors import ConfigError, NonFiniteError
from mlvlab_jax.evaluation.evaluation import make_predictor
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.types import Tree

_SPLITS = ("train", "validation", "test")


class Features(NamedTuple):
    """Of n examples of a split. value: float32 (n, d). label: int32 (n)."""

    value: np.ndarray
    label: np.ndarray


def extract_features(config: Config) -> tuple[dict[str, Features], list[str], int]:
    """Features of the splits of a configuration's data by its network, which begins with `weights`.

    Returns:
        By split; what the person should know, a line each; the number of classes.

    Raises:
        ConfigError: A split is missing, or examples may have several classes.
        DataError: Of the data or the weights.
        NonFiniteError: A feature is not a finite number.
    """
    experiment = make_experiment(config)
    data = experiment.data
    if data.multi_label:
        raise ConfigError("an example of these data may have several classes; expected one class each", path="data")
    if missing := [name for name in _SPLITS if name not in data.splits]:
        raise ConfigError(f"there is no {missing[0]} split; expected {', '.join(_SPLITS)}", path="data")
    begun = begin(config, experiment, workdir=None)
    notes = list(begun.notes)
    if config.weights is None:
        notes.append("weights: null; the features are those of a network that has learnt nothing")
    predictor = _make_predictor(config, experiment)
    found, bad = {}, list[BadExample]()
    for name in _SPLITS:
        outputs = predictor(begun.state.variables, data.splits[name], on_bad=bad.extend)
        if not np.isfinite(outputs.logits).all():
            raise NonFiniteError(f"features of the {name} split are not finite; expected numbers; look at the weights")
        found[name] = Features(outputs.logits, outputs.label)
    bad = list(dict.fromkeys(bad))  # one that pads a batch is met more than once
    if bad:
        first = f"{bad[0].name} of {bad[0].split}: {bad[0].reason}"
        notes.append(f"{len(bad)} examples are unreadable and were left out, such as {first}")
    return found, notes, len(data.class_names)


def _make_predictor(config: Config, experiment: Experiment) -> Predictor:
    model: Model = experiment.model

    def embed(variables: Variables, image: jax.Array, key: jax.Array, train: bool) -> tuple[jax.Array, Tree]:
        return model.describe(variables, image)[1], variables.state

    embedding = dataclasses.replace(experiment, model=model._replace(apply=embed))
    return make_predictor(config, embedding, most=max(map(len, experiment.data.splits.values())))
