"""Everything that is known of one checkpoint on one split, and the folder that keeps it."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlvlab_jax.config.load import compute_hash
from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.order import Split
from mlvlab_jax.data.quarantine import Quarantine
from mlvlab_jax.data.records import read_sides
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.predict import Outputs, Predictor
from mlvlab_jax.errors import ConfigError, NonFiniteError
from mlvlab_jax.evaluation.calibration import Calibration, fit_temperature, measure_calibration, scale_logits
from mlvlab_jax.evaluation.intervals import Estimate
from mlvlab_jax.evaluation.measures import estimate_metrics, make_plugin_measures
from mlvlab_jax.evaluation.predictions import Predictions, write_predictions
from mlvlab_jax.evaluation.slices import Slice, choose_columns, slice_accuracy, take_rows
from mlvlab_jax.evaluation.tables import count_confusion, describe_classes, list_mistakes
from mlvlab_jax.files import write_atomic
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.pages import make_thumbnail

_SCHEMA = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A checkpoint on a split.

    checkpoint: what was asked for, "best", "last" or a step. temperature: fitted on the validation split; None, as
    `after`, where there is none, where it shows no mistakes, or where it is what was evaluated.
    images: uint8 (h, w, c), the mistakes' by their index.
    """

    predictions: Predictions
    checkpoint: str
    metrics: dict[str, Estimate]
    temperature: float | None
    before: Calibration
    after: Calibration | None
    slices: dict[str, list[Slice]]
    data: Mapping[str, str]
    data_version: list[dict[str, Any]]
    images: Mapping[int, np.ndarray]

    def to_tree(self) -> dict[str, Any]:
        """What evaluation.json holds."""
        predictions, confusion = self.predictions, count_confusion(self.predictions)
        return {
            "schema": _SCHEMA,
            "step": predictions.step,
            "checkpoint": self.checkpoint,
            "split": predictions.split,
            "num_examples": len(predictions),
            "class_names": list(predictions.class_names),
            "config_hash": predictions.config_hash,
            "data": dict(self.data),
            "data_version": self.data_version,
            "metrics": {name: estimate._asdict() for name, estimate in self.metrics.items()},
            "per_class": describe_classes(confusion, predictions.class_names),
            "confusion": confusion.tolist(),
            "calibration": {
                "temperature": self.temperature,
                "fitted_on": None if self.temperature is None else "validation",
                "before": self.before.to_tree(),
                "after": self.after and self.after.to_tree(),
            },
            "slices": {name: [dataclasses.asdict(row) for row in rows] for name, rows in self.slices.items()},
            "mistakes": list_mistakes(predictions),
        }


def evaluate_variables(
    variables: Variables,
    *,
    config: Config,
    experiment: Experiment,
    split: str,
    step: int,
    checkpoint: str,
    slices: Sequence[str] | None = None,
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluates a model on a split of an experiment's data.

    Args:
        variables: Of the model.
        config: The experiment's configuration.
        experiment: Data, mesh and model.
        split: One of the data's.
        step: Updates that made `variables`.
        checkpoint: What was asked for: "best", "last" or a step.
        slices: Columns to slice by; None takes all with few values.
        between: Called after each batch; may raise to break off.

    Raises:
        ConfigError: There is no such column, or examples have several labels each.
        DataError: More examples are unreadable than the configuration allows.
        NonFiniteError: Some logits are not finite.
    """
    if experiment.data.multi_label:
        raise ConfigError("examples have several labels each; tables and calibration need data of one class an example")
    splits = experiment.data.splits
    columns = splits[split].columns
    chosen = choose_columns(columns, slices)
    tuned = splits.get("validation") if split != "validation" else None
    used = [splits[split]] if tuned is None else [splits[split], tuned]
    outputs = _predict(variables, used, config=config, experiment=experiment, between=between)
    config_hash, names = compute_hash(config), experiment.data.class_names
    predictions, *validation = (
        to_predictions(*pair, class_names=names, step=step, config_hash=config_hash)
        for pair in zip(outputs, used, strict=True)
    )
    temperature = fit_temperature(validation[0]) if validation else None
    wrong = np.array([mistake["index"] for mistake in list_mistakes(predictions)], np.int64)
    return Evaluation(
        predictions=predictions,
        checkpoint=checkpoint,
        metrics=estimate_metrics(predictions, make_plugin_measures(config.evaluation.metrics, predictions)),
        temperature=temperature,
        before=measure_calibration(predictions),
        after=None if temperature is None else measure_calibration(scale_logits(predictions, temperature)),
        slices=slice_accuracy(
            predictions.correct,
            {name: take_rows(columns[name], predictions.index) for name in chosen},
            measured=_measure_images(splits[split], outputs[0]),
        ),
        data=experiment.data.identity,
        data_version=[version.to_tree() for version in experiment.data.versions],
        images=dict(zip(wrong.tolist(), splits[split].source.fetch(wrong).image, strict=True)),
    )


def make_predictor(config: Config, experiment: Experiment, *, most: int) -> Predictor:
    """A predictor for splits of at most so many examples."""
    return Predictor(
        experiment.model,
        config.pipeline,
        layout=experiment.layout,
        mesh=experiment.mesh,
        batch_size=min(config.evaluation.batch_size, most),
    )


def _predict(
    variables: Variables,
    used: Sequence[Split],
    *,
    config: Config,
    experiment: Experiment,
    between: Callable[[], None],
) -> list[Outputs]:
    """Outputs for each split, by one program."""
    predictor = make_predictor(config, experiment, most=max(map(len, used)))
    sizes = {split.name: len(split) for split in used}
    quarantine = Quarantine(None, sizes=sizes, max_bad_fraction=config.pipeline.max_bad_fraction)
    return [predictor(variables, split, on_bad=quarantine.add, between=between) for split in used]


def _measure_images(split: Split, outputs: Outputs) -> dict[str, np.ndarray]:
    sides = read_sides(split.source, outputs.index)
    return {"brightness": outputs.brightness} | ({} if sides is None else {"size_px": sides})


def to_predictions(
    outputs: Outputs, split: Split, *, class_names: tuple[str, ...], step: int, config_hash: str
) -> Predictions:
    """What a model said, with what is known of the examples.

    Raises:
        NonFiniteError: Some logits are not finite.
    """
    finite = np.isfinite(outputs.logits).all(1)
    if not finite.all():
        raise NonFiniteError(
            f"split {split.name!r}, step {step}: the logits of {(~finite).sum()} of {len(finite)} examples are not "
            "finite; expected numbers; evaluate an earlier --checkpoint, or train with a lower learning rate"
        )
    return Predictions(
        ids=tuple(map(split.source.name, outputs.index.tolist())),
        index=outputs.index,
        label=outputs.label,
        logits=outputs.logits,
        class_names=class_names,
        split=split.name,
        step=step,
        config_hash=config_hash,
    )


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Writes the mistakes' images, predictions.parquet, then evaluation.json; of several processes the first does.

    Each file is whole or not there.
    """
    if jax.process_index() == 0:
        shutil.rmtree(folder / "mistakes", ignore_errors=True)  # an earlier evaluation made other ones
        for index, image in evaluation.images.items():
            write_atomic(folder / "mistakes" / f"{index}.png", make_thumbnail(image))
        write_predictions(folder / "predictions.parquet", evaluation.predictions)
        write_atomic(folder / "evaluation.json", (json.dumps(evaluation.to_tree(), allow_nan=False) + "\n").encode())


def is_evaluated(workdir: Path, step: int) -> bool:
    """Whether the run in `workdir` holds an evaluation of its best checkpoint, that of `step`."""
    paths = (workdir / "evaluation" / split / "evaluation.json" for split in ("test", "validation"))
    return any(path.is_file() and json.loads(path.read_text())["step"] == step for path in paths)


def evaluation_folder(workdir: Path, evaluation: Evaluation) -> Path:
    """Where an evaluation lies in a run folder: evaluation/SPLIT for the best checkpoint, SPLIT-STEP for another."""
    predictions = evaluation.predictions
    other = "" if evaluation.checkpoint == "best" else f"-{predictions.step}"
    return workdir / "evaluation" / f"{predictions.split}{other}"
