"""Early stopping as a value: each evaluation gives the next one; it is saved and restored with the run."""

import dataclasses

from mlvlab_jax.config.training import EarlyStoppingConfig


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Best value so far, the step it was reached at, and evaluations since that did not improve on it."""

    best: float | None = None
    best_step: int | None = None
    num_without_improvement: int = 0

    def observe(self, step: int, value: float, config: EarlyStoppingConfig) -> "EarlyStopping":
        """The state after an evaluation. A value that is not a number never improves."""
        sign = 1 if config.mode == "min" else -1
        if value == value and (self.best is None or sign * (self.best - value) > config.min_delta):
            return EarlyStopping(value, step, 0)
        return dataclasses.replace(self, num_without_improvement=self.num_without_improvement + 1)

    def stop_due(self, config: EarlyStoppingConfig) -> bool:
        """Whether patience has run out."""
        return config.patience is not None and self.num_without_improvement >= config.patience
