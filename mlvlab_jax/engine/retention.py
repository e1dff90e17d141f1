"""Which checkpoints stay: the newest, the best, and those of every so many steps."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from orbax.checkpoint.checkpoint_managers import preservation_policy

from mlvlab_jax.config.schema import CheckpointConfig


@dataclasses.dataclass(frozen=True)
class Rank:
    """How checkpoints are compared: by the monitored metric, the earliest first among equals."""

    mode: Literal["min", "max"]

    def __call__(self, metrics: dict[str, Any]) -> tuple[float, int]:
        """Sort key, the best largest."""
        value = float(metrics["monitored"])
        signed = value if self.mode == "max" else -value
        return (signed if value == value else float("-inf"), -int(metrics["step"]))


class _Saved(NamedTuple):
    """A checkpoint as Orbax's policies look at it."""

    step: int
    metrics: dict[str, Any] | None


def list_superfluous(saved: Mapping[int, dict[str, Any] | None], config: CheckpointConfig, rank: Rank) -> list[int]:
    """Steps that need not stay, ascending.

    Args:
        saved: The metrics of every checkpoint by its step; None where nothing was measured.
        config: What is kept.
        rank: Which of two is better.
    """
    policies: list[Any] = [
        preservation_policy.LatestN(config.keep_last),
        preservation_policy.BestN(get_metric_fn=rank, n=config.keep_best, keep_checkpoints_without_metrics=False),
    ]
    if config.keep_every_steps is not None:
        policies.append(preservation_policy.EveryNSteps(config.keep_every_steps))
    steps = sorted(saved)
    kept = preservation_policy.AnyPreservationPolicy(policies).should_preserve(
        [_Saved(step, saved[step]) for step in steps], context=preservation_policy.PreservationContext()
    )
    return [step for step, stays in zip(steps, kept, strict=True) if not stays]
