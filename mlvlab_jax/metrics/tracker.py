"""Metrics of a training loop of one's own, epoch by epoch."""

from collections.abc import Mapping
from typing import Literal

from pydantic import ValidationError

from mlvlab_jax.config.training import EarlyStoppingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.metrics.stopping import EarlyStopping


class MetricsTracker:
    """Remembers the best epoch and says when to stop, by the rule of `training.early_stopping`.

    Args:
        monitor: Name of the watched validation metric.
        mode: Whether lower or higher is better.
        patience: Epochs without improvement before stopping; None never stops.
        min_delta: Smallest change of the metric that counts as an improvement.

    Raises:
        ConfigError: A value is out of its range.
    """

    def __init__(
        self,
        monitor: str = "loss",
        mode: Literal["min", "max"] = "min",
        patience: int | None = None,
        min_delta: float = 0.0,
    ) -> None:
        try:
            self._rules = EarlyStoppingConfig(monitor=monitor, mode=mode, patience=patience, min_delta=min_delta)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            raise ConfigError(f"MetricsTracker: {found['loc'][0]} is {found['input']!r}; {found['msg']}") from None
        self._stopping = EarlyStopping()
        self._epoch = 0
        self._train: dict[str, float] = {}
        self._best: dict[str, float] = {}

    def update_train(self, metrics: Mapping[str, float]) -> None:
        """Notes the training metrics of an epoch, before its `update_val`."""
        self._train = dict(metrics)

    def update_val(self, metrics: Mapping[str, float]) -> None:
        """Notes the validation metrics of an epoch, which ends with it.

        Raises:
            ConfigError: The watched metric is not among them.
        """
        if self._rules.monitor not in metrics:
            raise ConfigError(
                f"MetricsTracker watches {self._rules.monitor!r}, which is not among {sorted(metrics)}; "
                "name one of them as its monitor"
            )
        self._epoch += 1
        self._stopping = self._stopping.observe(self._epoch, float(metrics[self._rules.monitor]), self._rules)
        if self._stopping.best_step == self._epoch:
            train = {f"train/{name}": value for name, value in self._train.items()}
            self._best = {**train, **metrics, "epoch": self._epoch}
        self._train = {}

    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self._stopping.stop_due(self._rules)

    def get_best_metrics(self) -> dict[str, float]:
        """Validation metrics of the best epoch, its training metrics as train/NAME, and `epoch`, its number from 1.

        Empty as long as the watched metric was never a number.
        """
        return dict(self._best)
