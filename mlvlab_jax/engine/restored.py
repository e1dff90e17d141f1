"""A checkpoint of a run and what it was made with, for those who read a run and do not train it."""

from pathlib import Path
from typing import NamedTuple

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.checkpoint import CheckpointStore, Which
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.state import TrainState


class Restored(NamedTuple):
    """The state after `step` updates of an experiment."""

    step: int
    experiment: Experiment
    state: TrainState


def restore_checkpoint(workdir: Path, config: Config, which: Which) -> Restored:
    """A checkpoint of the run in `workdir`, 'best', 'last' or a step; nothing is written.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
        MlvlabError: Of the kinds of `make_experiment`.
    """
    mode = config.training.early_stopping.mode
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode=mode, read_only=True) as store:
        step = store.resolve(which)
        experiment = make_experiment(config)
        state, _ = store.restore(step, experiment.state, experiment.layout)
    return Restored(step, experiment, state)
