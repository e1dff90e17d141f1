"""A configuration made real: data, mesh, model, optimiser, state and evaluator."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mlvlab_jax.config.schema import Config
from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.data.augment import check_channels
from mlvlab_jax.data.open import Data, open_data
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.data.versions import check_versions
from mlvlab_jax.engine.evaluate import Evaluator
from mlvlab_jax.engine.mesh import check_batch_size, make_mesh, replicate
from mlvlab_jax.engine.state import TrainState, create_state
from mlvlab_jax.engine.teacher import Teacher
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.metrics.base import make_metrics
from mlvlab_jax.models.build import build_model
from mlvlab_jax.models.nets.api import Model
from mlvlab_jax.optim.chain import Optimizer, make_optimizer
from mlvlab_jax.optim.horizon import Horizon


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run is made of. `state` is the state at step 0. teacher: of one that trains and has one."""

    data: Data
    mesh: Mesh
    horizon: Horizon
    model: Model
    optimizer: Optimizer
    state: TrainState
    layout: TrainState
    evaluator: Evaluator
    teacher: Teacher | None = None

    def observe(self, state: TrainState, measured: Mapping[str, float]) -> TrainState:
        """The state once its schedule, where one listens, was told what the validation split measured."""
        if self.optimizer.observe is None:
            return state
        value = replicate(np.float32(measured["loss"]), self.mesh)
        moved = jax.jit(self.optimizer.observe, out_shardings=self.layout.opt_state)(state.opt_state, value)
        return dataclasses.replace(state, opt_state=moved)


class Learner(NamedTuple):
    """What learns, and for how long: a function of the configuration and the shape of the data alone."""

    horizon: Horizon
    model: Model
    optimizer: Optimizer


def make_learner(config: Config, shape: DataShape, *, device: jax.Device) -> Learner:
    """Model, optimiser and horizon for data of this shape, which need not be there.

    Args:
        config: The run.
        shape: Of its data.
        device: One of those it would run on.

    Raises:
        ConfigError: Parts of the configuration do not fit each other or the data.
    """
    check_channels(config.pipeline.augment, shape.image.channels)
    _check_normalisation(config, shape.image.channels)
    horizon = Horizon.of(config.training, config.evaluation, shape.num_train)
    model = build_model(
        config.model, training=config.training, num_classes=shape.num_classes, image=shape.image, device=device
    )
    return Learner(horizon, model, make_optimizer(config.optimizer, config.schedule, config.training, horizon))


def make_experiment(config: Config) -> Experiment:
    """Opens the data and initialises the state.

    Raises:
        ConfigError: Parts of the configuration do not fit each other, the data or the devices.
        DataError: The data is missing or unusable, or not of its recorded version.
    """
    mesh = make_mesh(config.mesh)
    check_batch_size(config.training.batch_size, mesh, pieces=config.training.accumulation_steps)
    metrics = make_metrics(config.evaluation.metrics)
    data = open_data(config.data, config.pipeline, seed=config.seed)
    _check(config, data, metrics)
    data = dataclasses.replace(data, versions=check_versions(data.versions, verify=config.data_version.verify))
    horizon, model, optimizer = make_learner(config, data.shape, device=mesh.devices.flat[0])
    with_ema = optimizer.keeps_average(config.training)
    state, layout = create_state(
        model,
        optimizer,
        seed=config.seed,
        with_ema=with_ema,
        mesh=mesh,
        rules=config.mesh.rules,
        num_losses=count_losses(config.training),
    )
    check_accumulation(config.training.accumulation_steps, state)
    evaluator = Evaluator(
        model, metrics, config.pipeline, layout=layout, mesh=mesh, batch_size=config.evaluation.batch_size
    )
    return Experiment(data, mesh, horizon, model, optimizer, state, layout, evaluator)


def count_losses(training: TrainingConfig) -> int | None:
    """How many recent losses the state keeps."""
    return None if training.loss_spikes is None else training.loss_spikes.window


def check_accumulation(num_pieces: int, state: TrainState) -> None:
    """Refuses pieces of a batch for a model that looks at the whole batch at once.

    Args:
        num_pieces: Parts a batch is computed in.
        state: The state, or its shapes.

    Raises:
        ConfigError: There are several pieces, and the model has batch statistics.
    """
    if num_pieces > 1 and jax.tree.leaves(state.variables.state):
        raise ConfigError(
            f"{num_pieces} pieces of a model with batch statistics would not equal the whole batch; expected 1, or a "
            "model without batch normalisation (for cnn: model.params.norm: layer)",
            path="training.accumulation_steps",
        )


def _check_metrics(metrics: Mapping[str, Any], *, monitor: str, multi_label: bool) -> None:
    names = [name for name, metric in metrics.items() if getattr(metric, "result", "scalar") == "scalar"]
    if monitor not in names:
        raise ConfigError(
            f"{monitor!r} is not measured as a number; expected one of {names}; add it to evaluation.metrics",
            path="training.early_stopping.monitor",
        )
    for name, metric in metrics.items():
        target, given = getattr(metric, "target", "class"), "labels" if multi_label else "class"
        if target not in (given, "any"):
            words = {"labels": "several labels an image", "class": "one class an image"}
            raise ConfigError(
                f"{name!r} takes {words[target]}, and the data give {words[given]}; expected metrics of "
                f"{words[given]}; leave it out",
                path="evaluation.metrics",
            )


def _check(config: Config, data: Data, metrics: Mapping[str, Any]) -> None:
    """What can only be checked once the data is known."""
    stopping = config.training.early_stopping
    _check_metrics(metrics, monitor=stopping.monitor, multi_label=data.multi_label)
    if config.schedule.name == "plateau" and "loss" not in metrics:
        raise ConfigError("the plateau schedule watches 'loss'; add it", path="evaluation.metrics")
    listens = stopping.patience is not None or config.schedule.name == "plateau"
    if listens and "validation" not in data.splits:
        raise ConfigError(
            "early stopping and the plateau schedule need a validation split, and there is none; "
            "set it above 0, or name a validation split of the source",
            path="pipeline.validation_fraction",
        )


def _check_normalisation(config: Config, channels: int) -> None:
    for name in ("mean", "std"):
        values = getattr(config.pipeline, name)
        if len(values) not in (1, channels):
            raise ConfigError(
                f"{len(values)} values for images of {channels} channels; expected 1 or {channels}",
                path=f"pipeline.{name}",
            )
