"""What a run knows beside its arrays: saved with them, so that a resumed run logs the same numbers."""

import dataclasses
import math
from typing import Any

import jax

from mlvlab_jax.engine.step import SCALARS
from mlvlab_jax.errors import NonFiniteError
from mlvlab_jax.metrics.stopping import EarlyStopping


@dataclasses.dataclass(frozen=True)
class Window:
    """Sums over the steps since the last record of training metrics."""

    loss_sum: float = 0.0
    num_correct: float = 0.0
    num_examples: float = 0.0
    grad_norm: float = 0.0
    learning_rate: float = 0.0

    def add(self, scalars: dict[str, float]) -> "Window":
        """The window with one more step; gradient norm and learning rate are those of the last step."""
        return Window(
            loss_sum=self.loss_sum + scalars["loss_sum"],
            num_correct=self.num_correct + scalars["num_correct"],
            num_examples=self.num_examples + scalars["num_examples"],
            grad_norm=scalars["grad_norm"],
            learning_rate=scalars["learning_rate"],
        )

    def means(self) -> dict[str, float]:
        """Training metrics of the window."""
        return {
            "train/loss": self.loss_sum / self.num_examples,
            "train/accuracy": self.num_correct / self.num_examples,
            "train/grad_norm": self.grad_norm,
            "train/learning_rate": self.learning_rate,
        }


@dataclasses.dataclass(frozen=True)
class Progress:
    """Updates made, early stopping, the open window, and the newest metrics by name.

    evaluated: the step of the newest evaluation on the validation split, 0 before the first.
    """

    step: int = 0
    stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    window: Window = dataclasses.field(default_factory=Window)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluated: int = 0

    def to_tree(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Progress":
        """The inverse of `to_tree`."""
        # Checkpoints from before there was `evaluated` were only written after a step's evaluation.
        evaluated = tree.get("evaluated", tree["step"])
        return cls(
            tree["step"], EarlyStopping(**tree["stopping"]), Window(**tree["window"]), tree["metrics"], evaluated
        )


class LateMetrics:
    """Reads a step's scalars only after the next step is dispatched, so that the device never waits for the host."""

    def __init__(self) -> None:
        self._pending: tuple[int, jax.Array] | None = None

    def push(self, step: int, scalars: jax.Array) -> list[dict[str, float]]:
        """Takes the scalars of the steps up to `step`, float32 (steps, n) or (n), n in the order of `SCALARS`.

        Returns:
            Those of the steps of the dispatch before.

        Raises:
            NonFiniteError: One of these had a loss or gradient that is not finite.
        """
        scalars.copy_to_host_async()
        ready = self.drain()
        self._pending = (step, scalars)
        return ready

    def drain(self) -> list[dict[str, float]]:
        """Waits for the newest scalars and gives them, a dict a step."""
        if self._pending is None:
            return []
        last, scalars = self._pending
        self._pending = None
        rows = jax.device_get(scalars).reshape(-1, len(SCALARS)).tolist()
        steps = [dict(zip(SCALARS, row, strict=True)) for row in rows]
        for step, values in enumerate(steps, start=last + 1 - len(steps)):
            _check_finite(step, values)
        return steps


def _check_finite(step: int, values: dict[str, float]) -> None:
    for name in ("loss_sum", "grad_norm"):
        if not math.isfinite(values[name]):
            raise NonFiniteError(
                f"step {step}: {name} is {values[name]}; expected a finite number; nothing after the last "
                "checkpoint was saved; lower training.learning_rate or set training.gradient_clip_norm",
                path="training.learning_rate",
            )
