"""State and progress of one run, and the few things that happen to them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import jax

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.double_check import CheckedUpdates, make_checked_updates
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.guard import Guard
from mlvlab_jax.engine.progress import LateMetrics, Progress, StepScalars
from mlvlab_jax.engine.reporting import Reporter, measured_of, name_scalars
from mlvlab_jax.engine.shared_quarantine import SharedQuarantine
from mlvlab_jax.engine.signals import StopRequested, break_off_if
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.updates import make_updates
from mlvlab_jax.errors import NonFiniteError
from mlvlab_jax.types import Tracker, Tree

Ended = Literal["finished", "stopped early", "interrupted"]
Breakable = Callable[[], AbstractContextManager[None]]


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
        guard: Guard,
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
        self._guard = guard
        self._tags = tags
        self._late = LateMetrics()
        updates = make_updates(config, experiment, on_bad=quarantine.add)
        self._updates = make_checked_updates(updates, config, experiment, workdir=attempt.workdir)
        self._sizes: set[int] = set()
        self.state = experiment.state
        self.best: TrainState | None = None
        self.progress = Progress()
        if resume_from is not None:
            self._restore(resume_from, verify=False)  # which `recover` has just done

    def train(self, stop_requested: Callable[[int], bool], breakable: Breakable = contextlib.nullcontext) -> Ended:
        """Steps until the horizon, until patience runs out, or until asked to stop; then the state is being saved."""
        self._reporter.start(
            self.state, first_step=self.progress.step, tags=self._tags, evaluates_first=self._evaluation_cut_off()
        )
        while True:
            try:
                return self._train(self._asking(stop_requested), breakable)
            except NonFiniteError as error:
                self._go_back(error)
            except StopRequested:
                self._attempt.take_back(self.progress.step)
                self._save_to_stop()
                return "interrupted"

    def _go_back(self, error: NonFiniteError) -> None:
        """Takes up the last checkpoint, leaving out the batches since, or raises the error."""
        with self._clock.phase("checkpoint"):
            self._store.wait()
        newest = max(self._store.steps(), default=None)
        if newest is None or error.step is None or not self._guard.may_go_back(error, to=newest):
            raise error
        self._late.forget()
        self._restore(newest, verify=True)
        left_out = (*self.progress.skipped, *range(newest + 1, error.step + 1))
        self.progress = dataclasses.replace(self.progress, step=error.step, skipped=left_out)

    def _restore(self, step: int, *, verify: bool) -> None:
        with self._clock.phase("checkpoint"):
            experiment = self._experiment
            self.state, tree = self._store.restore(step, experiment.state, experiment.layout, verify=verify)
            self.progress = Progress.from_tree(tree)

    def _save_to_stop(self) -> None:
        if not self.progress.step:  # before the first there is nothing to lose
            return
        try:
            self._save()
        except NonFiniteError as error:
            self._go_back(error)
            self._save()

    def _train(self, between: Callable[[], None], breakable: Breakable) -> Ended:
        config, horizon = self._config, self._experiment.horizon
        between()
        if self._evaluation_cut_off():
            self._evaluate(between)
            self._save(anew=True)
        if self.progress.stopping.stop_due(config.training.early_stopping):
            return "stopped early"
        start = self.progress.step
        batches = self._updates.batches(start)
        with jax.transfer_guard("disallow"):
            for first, step in self._updates.plan(start):
                self._update(first, step, batches, breakable)
                improved = horizon.eval_due(step) and self._evaluate(between)
                if improved or self._save_due(step):
                    self._save()
                if self.progress.stopping.stop_due(config.training.early_stopping):
                    self._settle()
                    return "stopped early"
                if step < horizon.num_steps:
                    between()
        return "finished"

    def _update(self, first: int, step: int, batches: Iterator[Tree], breakable: Breakable) -> None:
        """The steps of one dispatch, the one after `first` to `step`."""
        phase = self._clock.phase("train" if step - first in self._sizes else "compile")
        with phase, self._attempt.step(first + 1, step, settle=self._settle):
            with breakable():
                with self._clock.phase("input"):
                    batch = next(batches)
                self._updates.await_program(batch)
            if first == 0:
                self._reporter.show_first_batch(self.state, self._updates.first_batch(batch))
            self.state, scalars = self._updates(self.state, batch)
            self._sizes.add(step - first)
            self._count(self._late.push(step, scalars))
            self.progress = dataclasses.replace(self.progress, step=step)
            self._store.look()
            if step % self._config.tracking.log_every_steps == 0:
                self._log()

    def finish(self, ended: Ended, stop_requested: Callable[[int], bool] = lambda step: False) -> dict[str, Any]:
        """Makes sure the last state is saved, measures the best one on the test split, and sums up.

        Asked to stop by then, or on the test split, it sums up as interrupted, and a later attempt finishes.
        """
        through = ended != "interrupted"
        if through:
            self._save()
        with self._clock.phase("checkpoint"):
            self._store.wait()
        if through:
            with contextlib.suppress(StopRequested):
                return self._summarise(ended, best=self._measure_best(self._asking(stop_requested)))
        self.best = None
        return self._summarise("interrupted", best=None)

    def _measure_best(self, between: Callable[[], None]) -> dict[str, Any]:
        """Step and metrics of the best state, which `best` then is."""
        with self._clock.phase("checkpoint"):
            best_step = self._store.resolve("best")
            self.best, tree = self._store.restore(best_step, self._experiment.state, self._experiment.layout)
        splits, tested = self._experiment.data.splits, {}
        if "test" in splits:
            with self._clock.phase("evaluate"):
                measured = self._experiment.evaluator(
                    self.best.evaluated, splits["test"], on_bad=self._quarantine.add, between=between
                )
                self._quarantine.share()
            self.progress = self._reporter.split(self.progress, best_step, "test", measured)
            tested = name_scalars("test", measured)
        return {"step": best_step} | measured_of(tree["metrics"]) | tested

    def _asking(self, stop_requested: Callable[[int], bool]) -> Callable[[], None]:
        return lambda: break_off_if(stop_requested(self.progress.step))

    def _evaluation_cut_off(self) -> bool:
        """Whether the state is one whose evaluation a stop broke off."""
        progress, horizon = self.progress, self._experiment.horizon
        due = progress.step > 0 and horizon.eval_due(progress.step) and "validation" in self._experiment.data.splits
        return due and progress.evaluated < progress.step

    def _count(self, finished: Sequence[StepScalars]) -> None:
        self.progress = self._reporter.count(self._guard.judge(self.progress, finished), finished)

    def _settle(self) -> None:
        """Waits for the newest step."""
        self._count(self._late.drain())

    def _log(self) -> None:
        """Closes the window and reports it."""
        self._settle()
        self.progress = self._reporter.close_window(self.progress)

    def _evaluate(self, between: Callable[[], None]) -> bool:
        """Measures the validation split; says whether the monitored metric is the best so far."""
        split = self._experiment.data.splits.get("validation")
        if split is None:
            return False
        with self._clock.phase("train"):
            self._settle()
        with self._clock.phase("evaluate"):
            measured = self._experiment.evaluator(
                self.state.evaluated, split, on_bad=self._quarantine.add, between=between
            )
            self.state = self._experiment.observe(self.state, measured.scalars)
            step, rules = self.progress.step, self._config.training.early_stopping
            stopping = self.progress.stopping.observe(step, measured.scalars[rules.monitor], rules)
            self.progress = dataclasses.replace(self.progress, stopping=stopping, evaluated=step)
            self.progress = self._reporter.split(self.progress, step, "validation", measured)
            if self._config.tracking.param_histograms:
                self._reporter.param_histograms(self.state, step=step)
        return stopping.best_step == step

    def _save_due(self, step: int) -> bool:
        every = self._config.checkpoint.every_steps
        horizon = self._experiment.horizon
        return step == horizon.num_steps or (step % every == 0 if every else horizon.eval_due(step))

    def _save(self, *, anew: bool = False) -> None:
        """Starts a save of state and progress; the newest loss is checked first, so a lost run is never saved."""
        with self._clock.phase("train"):
            if isinstance(self._updates, CheckedUpdates):
                self._updates.compare_replicas(self.state, step=self.progress.step)
            self._settle()
        self._quarantine.share()
        with self._clock.phase("checkpoint"):
            step = self.progress.step
            self._guard.check_state(self.state, step=step)
            name = f"validation/{self._config.training.early_stopping.monitor}"
            monitored = self.progress.metrics.get(name) if self.progress.evaluated == step else None
            progress = self.progress.to_tree() | {"data_version": describe_versions(self._experiment)}
            self._store.save(self.state, progress, step=step, monitored=monitored, anew=anew)

    def _summarise(self, ended: str, *, best: dict[str, Any] | None) -> dict[str, Any]:
        num_bad = self._quarantine.num_bad
        return self._reporter.summarise(ended, self.state, self.progress, num_bad=num_bad, best=best)


def describe_versions(experiment: Experiment) -> list[dict[str, Any]]:
    """The data versions of a run, as they are written down."""
    return [version.to_tree() for version in experiment.data.versions]
