"""The training loop. "Step k" is the state after k updates."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.inspection import check_before_training
from mlvlab_jax.data.quarantine import Quarantine
from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.compiling import check_compile_options
from mlvlab_jax.engine.dispatch import check_dispatch
from mlvlab_jax.engine.distributed import from_first, is_first
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.folder import describe_tags, write_start
from mlvlab_jax.engine.mesh import replicate
from mlvlab_jax.engine.progress import LateMetrics, Progress
from mlvlab_jax.engine.recovery import recover
from mlvlab_jax.engine.reporting import Reporter, measured_of, name_scalars
from mlvlab_jax.engine.shared_quarantine import SharedQuarantine
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.updates import make_updates
from mlvlab_jax.files import write_json
from mlvlab_jax.types import Tracker


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended: what ended it, the final state and progress, and what summary.json says.

    best: the state the summary calls so, at that step; None of an interrupted run.
    """

    ended: Literal["finished", "stopped early", "interrupted"]
    state: TrainState
    progress: Progress
    summary: dict[str, Any]
    experiment: Experiment
    best: TrainState | None


def run(
    config: Config,
    *,
    workdir: Path,
    tracker: Tracker,
    stop_requested: Callable[[int], bool] = lambda step: False,
    attempt: AttemptLog | None = None,
) -> RunResult:
    """Trains, or goes on training, in `workdir`.

    Args:
        config: What to do.
        workdir: Run folder, already held by this process.
        tracker: Where numbers go.
        stop_requested: Asked after each step with its number; true saves and ends the run.
        attempt: Watches this start of the run, and goes on when training has ended; None: one that ends with it.

    Raises:
        MlvlabError: Of the kinds of `make_experiment`; NonFiniteError when the loss is lost; DiskError.
    """
    if attempt is None:
        with AttemptLog(workdir) as own:
            return run(config, workdir=workdir, tracker=tracker, stop_requested=stop_requested, attempt=own)
    check_compile_options(config.compile_options)
    experiment = make_experiment(config)
    check_dispatch(config, experiment)
    for line in (*experiment.model.notes, *check_before_training(experiment.data, config.validation)):
        tracker.note(line)
    identity, versions = dict(experiment.data.identity), _version_trees(experiment)
    manifest = from_first(lambda: write_start(workdir, config, data_identity=identity, data_version=versions))
    folder, mode = workdir / "checkpoints", config.training.early_stopping.mode
    with attempt.clock.phase("checkpoint"):
        newest = recover(folder, tracker.note)
    with CheckpointStore(folder, config.checkpoint, mode=mode, note=tracker.note, saved=attempt.saved) as store:
        quarantine = Quarantine(
            workdir / "quarantine.jsonl",
            sizes={name: len(split) for name, split in experiment.data.splits.items()},
            max_bad_fraction=config.pipeline.max_bad_fraction,
            writes=is_first(),
        )
        shared = SharedQuarantine(quarantine)
        trainer = Trainer(config, experiment, store, tracker, attempt, shared, describe_tags(manifest), newest)
        in_memory, first_step = experiment.data.train.source.resident, trainer.progress.step
        attempt.begin(config, in_memory=in_memory, first_step=first_step, note=tracker.note)
        try:
            attempt.ended = ended = trainer.train(stop_requested)
            summary = trainer.finish(ended)
            tracker.summary(summary)
        finally:
            tracker.finish()
    if is_first():
        write_json(workdir / "summary.json", summary)
    return RunResult(ended, trainer.state, trainer.progress, summary, experiment, trainer.best)


class Trainer:
    """State and progress of one run, and the few things that happen to them."""

    def __init__(
        self,
        config: Config,
        experiment: Experiment,
        store: CheckpointStore,
        tracker: Tracker,
        attempt: AttemptLog,
        quarantine: SharedQuarantine,
        tags: Mapping[str, str],
        resume_from: int | None = None,
    ) -> None:
        self._config = config
        self._experiment = experiment
        self._store = store
        self._reporter = Reporter(config, experiment, tracker, attempt)
        self._attempt = attempt
        self._clock = attempt.clock
        self._quarantine = quarantine
        self._tags = tags
        self._late = LateMetrics()
        self._updates = make_updates(config, experiment, on_bad=quarantine.add)
        self.state = experiment.state
        self.best: TrainState | None = None
        self.progress = Progress()
        if resume_from is not None:
            with self._clock.phase("checkpoint"):
                self.state, tree = store.restore(resume_from, experiment.state, experiment.layout, verify=False)
                self.progress = Progress.from_tree(tree)

    def train(self, stop_requested: Callable[[int], bool]) -> Literal["finished", "stopped early", "interrupted"]:
        """Steps until the horizon, until patience runs out, or until asked to stop."""
        config, horizon, updates = self._config, self._experiment.horizon, self._updates
        self._reporter.start(self.state, first_step=self.progress.step, tags=self._tags)
        if self.progress.stopping.stop_due(config.training.early_stopping):
            return "stopped early"
        start, sizes = self.progress.step, set()
        batches = updates.batches(start)
        with jax.transfer_guard("disallow"):
            for first, step in updates.plan(start):
                phase = self._clock.phase("train" if step - first in sizes else "compile")
                with phase, self._attempt.step(first + 1, step, settle=self._settle):
                    with self._clock.phase("input"):
                        batch = next(batches)
                    if first == 0:
                        self._reporter.show_first_batch(self.state, updates.first_batch(batch))
                    self.state, scalars = updates(self.state, batch)
                    sizes.add(step - first)
                    self._count(self._late.push(step, scalars))
                    self.progress = dataclasses.replace(self.progress, step=step)
                    self._store.look()
                    if step % config.tracking.log_every_steps == 0:
                        self._log()
                improved = self._evaluate() if horizon.eval_due(step) else False
                interrupted = stop_requested(step)
                if interrupted or improved or self._save_due(step):
                    self._save()
                if self.progress.stopping.stop_due(config.training.early_stopping):
                    return "stopped early"
                if interrupted and step < horizon.num_steps:
                    return "interrupted"
        return "finished"

    def finish(self, ended: str) -> dict[str, Any]:
        """Makes sure the last state is saved, measures the best one on the test split, and sums up."""
        if ended == "interrupted":
            with self._clock.phase("checkpoint"):
                self._store.wait()
            return self._summarise(ended, best=None)
        self._save()
        with self._clock.phase("checkpoint"):
            self._store.wait()
            best_step = self._store.resolve("best")
            self.best, tree = self._store.restore(best_step, self._experiment.state, self._experiment.layout)
        splits, tested = self._experiment.data.splits, {}
        if "test" in splits:
            with self._clock.phase("evaluate"):
                measured = self._experiment.evaluator(self.best.evaluated, splits["test"], on_bad=self._quarantine.add)
                self._quarantine.share()
            self.progress = self._reporter.split(self.progress, best_step, "test", measured)
            tested = name_scalars("test", measured)
        return self._summarise(ended, best={"step": best_step} | measured_of(tree["metrics"]) | tested)

    def _count(self, finished: Sequence[dict[str, float]]) -> None:
        self.progress = self._reporter.count(self.progress, finished)

    def _settle(self) -> None:
        """Waits for the newest step."""
        self._count(self._late.drain())

    def _log(self) -> None:
        """Closes the window and reports it."""
        self._settle()
        self.progress = self._reporter.close_window(self.progress)

    def _evaluate(self) -> bool:
        """Measures the validation split; says whether the monitored metric is the best so far."""
        split = self._experiment.data.splits.get("validation")
        if split is None:
            return False
        with self._clock.phase("evaluate"):
            measured = self._experiment.evaluator(self.state.evaluated, split, on_bad=self._quarantine.add)
            self._observe_plateau(measured.scalars)
            step, rules = self.progress.step, self._config.training.early_stopping
            stopping = self.progress.stopping.observe(step, measured.scalars[rules.monitor], rules)
            self.progress = dataclasses.replace(self.progress, stopping=stopping)
            self.progress = self._reporter.split(self.progress, step, "validation", measured)
            if self._config.tracking.param_histograms:
                self._reporter.param_histograms(self.state, step=step)
        return stopping.best_step == step

    def _observe_plateau(self, measured: dict[str, float]) -> None:
        observe = self._experiment.optimizer.observe
        if observe is None:
            return
        value = replicate(np.float32(measured["loss"]), self._experiment.mesh)
        moved = jax.jit(observe, out_shardings=self._experiment.layout.opt_state)(self.state.opt_state, value)
        self.state = dataclasses.replace(self.state, opt_state=moved)

    def _save_due(self, step: int) -> bool:
        every = self._config.checkpoint.every_steps
        horizon = self._experiment.horizon
        return step == horizon.num_steps or (step % every == 0 if every else horizon.eval_due(step))

    def _save(self) -> None:
        """Starts a save of state and progress; the newest loss is checked first, so a lost run is never saved."""
        with self._clock.phase("train"):
            self._settle()
        self._quarantine.share()
        with self._clock.phase("checkpoint"):
            step = self.progress.step
            name = f"validation/{self._config.training.early_stopping.monitor}"
            monitored = self.progress.metrics.get(name) if self._experiment.horizon.eval_due(step) else None
            progress = self.progress.to_tree() | {"data_version": _version_trees(self._experiment)}
            self._store.save(self.state, progress, step=step, monitored=monitored)

    def _summarise(self, ended: str, *, best: dict[str, Any] | None) -> dict[str, Any]:
        num_bad = self._quarantine.num_bad
        return self._reporter.summarise(ended, self.state, self.progress, num_bad=num_bad, best=best)


def _version_trees(experiment: Experiment) -> list[dict[str, Any]]:
    return [version.to_tree() for version in experiment.data.versions]
