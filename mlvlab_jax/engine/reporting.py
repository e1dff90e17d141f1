"""What the tracker is told of a run, and what its summary says."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mlvlab_jax.config.load import flatten, to_tree, to_yaml
from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.examples import append_batch
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.mesh import fetch, replicated
from mlvlab_jax.engine.progress import Progress, StepScalars, Window
from mlvlab_jax.engine.skipping import guards
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.step import augment_batch
from mlvlab_jax.engine.telemetry import Rate
from mlvlab_jax.engine.utilization import Utilization
from mlvlab_jax.metrics.base import Measured
from mlvlab_jax.metrics.confusion import render_confusion
from mlvlab_jax.trees import count_elements, named_leaves
from mlvlab_jax.types import RunInfo, Tracker, Tree


class Reporter:
    """Reports a run to its tracker; what it reports becomes the newest metrics of the progress it gives back."""

    def __init__(self, config: Config, experiment: Experiment, tracker: Tracker, attempt: AttemptLog) -> None:
        self._config = config
        self._experiment = experiment
        self._tracker = tracker
        self._attempt = attempt
        self._rate = Rate(attempt.clock)
        self._utilization = Utilization(experiment, batch_size=config.training.batch_size)

    def start(
        self, state: TrainState, *, first_step: int, tags: Mapping[str, str], evaluates_first: bool = False
    ) -> None:
        """Says what is run, from which step on, whether that is to be evaluated first, and what made it."""
        from clu import parameter_overview

        params = state.variables.params
        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        info = RunInfo(
            num_steps=self._experiment.horizon.num_steps,
            first_step=first_step,
            batch_size=self._config.training.batch_size,
            num_params=count_elements(params),
            hparams=flatten(to_tree(self._config)),
            texts={"config": to_yaml(self._config), "parameters": table},
            tags=tags,
            evaluates_first=evaluates_first,
        )
        self._tracker.start(info)

    def show_first_batch(self, state: TrainState, batch: Tree) -> None:
        """Shows 16 images as the network will see them, before normalisation."""
        rules = self._config.pipeline.augment
        show = jax.jit(
            lambda key, batch: augment_batch(key, batch, rules)[:16], out_shardings=replicated(self._experiment.mesh)
        )
        self._tracker.images(1, {"train/first_batch": jax.device_get(show(state.key, batch))})

    def count(self, progress: Progress, finished: Sequence[StepScalars]) -> Progress:
        """Adds the scalars of finished steps to the window, but for updates left out, and shows the last loss."""
        if not finished:
            return progress
        window, examples = progress.window, progress.examples
        for _, scalars in finished:
            window = window.add(scalars) if scalars["applied"] else window
            examples = append_batch(examples, scalars["examples"])
        self._rate.arrive(window.num_examples - progress.window.num_examples, num_steps=len(finished))
        self._tracker.progress(progress.step, scalars["loss_sum"] / scalars["num_examples"])
        return dataclasses.replace(progress, window=window, examples=examples)

    def close_window(self, progress: Progress) -> Progress:
        """Reports the means over the window, and opens the next one."""
        if progress.window.num_examples == 0:
            return progress
        epoch = progress.step / self._experiment.horizon.steps_per_epoch
        values = {**progress.window.means(), "epoch": epoch, **self._read_speed()}
        if guards(self._config.training) or progress.skipped:
            values["train/skipped"] = float(len(progress.skipped))
        progress = self._report(progress, progress.step, values)
        return dataclasses.replace(progress, window=Window())

    def _read_speed(self) -> dict[str, float]:
        rates = self._rate.read()
        if not self._config.training.progressive:  # whose images have no one size
            self._attempt.mfu = self._utilization.read(rates["images_per_second"])
        return rates if self._attempt.mfu is None else rates | {"mfu": self._attempt.mfu}

    def split(self, progress: Progress, step: int, split: str, measured: Measured) -> Progress:
        """Reports what the state of `step` measures on a split, and the confusion matrix as an image."""
        progress = self._report(progress, step, name_scalars(split, measured))
        if "confusion_matrix" in measured.arrays:
            image = render_confusion(measured.arrays["confusion_matrix"])
            self._tracker.images(step, {f"{split}/confusion_matrix": image})
        return progress

    def param_histograms(self, state: TrainState, *, step: int) -> None:
        """Reports the distribution of every parameter."""
        params = fetch(state.variables.params, self._experiment.mesh)
        self._tracker.histograms(step, {f"params/{name}": leaf for name, leaf in named_leaves(params)})

    def summarise(
        self, ended: str, state: TrainState, progress: Progress, *, num_bad: int, best: dict[str, Any] | None
    ) -> dict[str, Any]:
        """What summary.json says.

        Args:
            ended: What ended the run.
            state: The last one.
            progress: At the end.
            num_bad: Unreadable examples met.
            best: Step and metrics of the best state; None of an interrupted run.
        """
        return {
            "ended": ended,
            "steps": progress.step,
            "num_params": count_elements(state.variables.params),
            "num_bad_examples": num_bad,
            "skipped_steps": list(progress.skipped),
            "best": best,
            "last": {"step": progress.step} | measured_of(progress.metrics),
            **self._attempt.describe(),
        }

    def _report(self, progress: Progress, step: int, values: dict[str, float]) -> Progress:
        self._tracker.scalars(step, values)
        self._attempt.metrics = {**self._attempt.metrics, **values}
        return dataclasses.replace(progress, metrics=progress.metrics | measured_of(values))


def name_scalars(split: str, measured: Measured) -> dict[str, float]:
    """The numbers measured on a split, as SPLIT/NAME."""
    return {f"{split}/{name}": value for name, value in measured.scalars.items()}


def measured_of(metrics: dict[str, float]) -> dict[str, float]:
    """Those metrics that say how good the model is, not how fast the run."""
    return {name: value for name, value in metrics.items() if name.startswith(("train/", "validation/"))}
