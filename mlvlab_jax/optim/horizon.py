"""The only place where epochs become steps."""

import dataclasses
import math

from mlvlab_jax.config.schema import EvaluationConfig, TrainingConfig


@dataclasses.dataclass(frozen=True)
class Horizon:
    """The length of a run in steps; "step k" is the state after k updates."""

    num_steps: int
    steps_per_epoch: float
    eval_every_steps: int

    @classmethod
    def of(cls, training: TrainingConfig, evaluation: EvaluationConfig, num_train: int) -> "Horizon":
        """Horizon of training on `num_train` examples; an epoch need not be a whole number of steps."""
        steps_per_epoch = num_train / training.batch_size
        return cls(
            num_steps=max(1, math.ceil(training.num_epochs * steps_per_epoch)),
            steps_per_epoch=steps_per_epoch,
            eval_every_steps=max(1, round(evaluation.every_epochs * steps_per_epoch)),
        )

    def steps(self, epochs: float) -> int:
        """Steps nearest to a number of epochs, at most the whole run."""
        return min(self.num_steps, round(epochs * self.steps_per_epoch))

    def eval_due(self, step: int) -> bool:
        """Whether the validation split is measured after `step`: regularly, and at the end."""
        return step % self.eval_every_steps == 0 or step == self.num_steps
