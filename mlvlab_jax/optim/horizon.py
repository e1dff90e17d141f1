"""The only place where epochs become steps."""

import dataclasses
import math

from mlvlab_jax.config.schema import EvaluationConfig
from mlvlab_jax.config.training import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Horizon:
    """The length of a run in steps; "step k" is the state after k batches."""

    num_steps: int
    steps_per_epoch: float
    steps_per_eval: float

    @classmethod
    def of(cls, training: TrainingConfig, evaluation: EvaluationConfig, num_train: int) -> "Horizon":
        """Horizon of training on `num_train` examples; an epoch need not be a whole number of steps."""
        steps_per_epoch = num_train / training.batch_size
        return cls(
            num_steps=max(1, math.ceil(training.num_epochs * steps_per_epoch)),
            steps_per_epoch=steps_per_epoch,
            steps_per_eval=max(1.0, evaluation.every_epochs * steps_per_epoch),
        )

    def steps(self, epochs: float) -> int:
        """Steps nearest to a number of epochs, at most the whole run."""
        return min(self.num_steps, round(epochs * self.steps_per_epoch))

    def eval_due(self, step: int) -> bool:
        """Whether the validation split is measured after `step`: an interval ends with it, or the run does."""
        return step // self.steps_per_eval > (step - 1) // self.steps_per_eval or step == self.num_steps
