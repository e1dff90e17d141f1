"""What is left of a model's accuracy and calibration where images are worse than those it was trained on."""

from typing import Any

import jax
import jax.numpy as jnp

from mlvlab_jax.config.load import compute_hash
from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupt
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.evaluation.calibration import measure_calibration, scale_logits
from mlvlab_jax.evaluation.evaluation import Evaluation, make_predictor, to_predictions
from mlvlab_jax.evaluation.predictions import Predictions
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.types import Tree


def measure_robustness(
    variables: Variables, evaluation: Evaluation, *, config: Config, experiment: Experiment
) -> dict[str, Any]:
    """Error and calibration of a model on each corruption, in each severity, of the split it was evaluated on.

    Calibration is that after the temperature which the images as they are were given.

    Args:
        variables: Of the model.
        evaluation: Of it on the split.
        config: The experiment's configuration.
        experiment: Data, mesh and model.

    Returns:
        JSON values: clean, corruptions (by name, from severity 1 on) with error, nll and ece each, and the mean
        corruption error, which is that of all of them; unlike ImageNet-C's it is not divided by another model's.
    """
    plain = evaluation.predictions
    split = experiment.data.splits[plain.split]
    predictor = make_predictor(config, experiment, most=len(split))
    found: dict[str, list[dict[str, float]]] = {}
    for name in CORRUPTIONS:
        for severity in range(1, NUM_SEVERITIES + 1):

            def change(batch: Tree, name: str = name, severity: int = severity) -> jax.Array:
                with jax.transfer_guard("allow"):  # the number of the severity
                    return corrupt(batch["image"], batch["example_id"], jnp.int32(severity), name=name)

            outputs = predictor(variables, split, on_bad=lambda bad: None, change=change)
            predictions = to_predictions(
                outputs, split, class_names=plain.class_names, step=plain.step, config_hash=compute_hash(config)
            )
            found.setdefault(name, []).append(_measure(predictions, evaluation.temperature))
    errors = [row["error"] for rows in found.values() for row in rows]
    return {
        "clean": _measure(plain, evaluation.temperature),
        "corruptions": found,
        "mean_corruption_error": sum(errors) / len(errors),
    }


def _measure(predictions: Predictions, temperature: float | None) -> dict[str, float]:
    scaled = predictions if temperature is None else scale_logits(predictions, temperature)
    calibration = measure_calibration(scaled)
    error = 1 - float(predictions.correct.mean())
    return {"error": error, "nll": calibration.nll, "ece": calibration.ece}
