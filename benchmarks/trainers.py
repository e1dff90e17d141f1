"""The engine's loop as a benchmark runs it: all trackers on, in a folder that is gone afterwards."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.quarantine import Quarantine
from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.guard import Guard
from mlvlab_jax.engine.shared_quarantine import SharedQuarantine
from mlvlab_jax.engine.trainer import Trainer
from mlvlab_jax.tracking.multi import make_tracker


@contextlib.contextmanager
def open_trainer(config: Config, experiment: Experiment) -> Iterator[tuple[Trainer, AttemptLog]]:
    """A trainer at a copy of the experiment's first state, on data in memory, and what watches it."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = make_tracker(config.tracking.trackers, workdir=Path(folder))
        store = CheckpointStore(Path(folder) / "checkpoints", config.checkpoint, mode="min")
        with store, AttemptLog(Path(folder)) as attempt:
            attempt.begin(config, in_memory=True, first_step=0, note=print)
            quarantine = SharedQuarantine(Quarantine(None, sizes={}, max_bad_fraction=0.0))
            guard = Guard(config, experiment.state, experiment.mesh, workdir=Path(folder), note=print)
            trainer = Trainer(config, experiment, store, tracker, attempt, quarantine, guard, tags={})
            trainer.state = jax.tree.map(lambda x: x.copy(), experiment.state)
            yield trainer, attempt
        tracker.finish()
