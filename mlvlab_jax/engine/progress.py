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
    """Updates made, early stopping, the open window, and the newest metrics by name."""

    step: int = 0
    stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    window: Window = dataclasses.field(default_factory=Window)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)

    def to_tree(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Progress":
        """The inverse of `to_tree`."""
        return cls(tree["step"], EarlyStopping(**tree["stopping"]), Window(**tree["window"]), tree["metrics"])


class LateMetrics:
    """Reads a step's scalars only after the next step is dispatched, so that the device never waits for the host."""

    def __init__(self) -> None:
        self._pending: tuple[int, jax.Array] | None = None

    def push(self, step: int, scalars: jax.Array) -> dict[str, float] | None:
        """Takes the scalars of `step`, float32 in the order of `SCALARS`; gives those of the step before, or None.

        Raises:
            NonFiniteError: The step before had a loss or gradient that is not finite.
        """
        scalars.copy_to_host_async()
        ready = self.drain()
        self._pending = (step, scalars)
        return ready

    def drain(self) -> dict[str, float] | None:
        """Waits for the newest scalars and gives them, or None where there are none left."""
        if self._pending is None:
            return None
        step, scalars = self._pending
        self._pending = None
        values: dict[str, float] = dict(zip(SCALARS, jax.device_get(scalars).tolist(), strict=True))
        for name in ("loss_sum", "grad_norm"):
            if not math.isfinite(values[name]):
                raise NonFiniteError(
                    f"step {step}: {name} is {values[name]}; expected a finite number; nothing after the last "
                    "checkpoint was saved; lower training.learning_rate or set training.gradient_clip_norm",
                    path="training.learning_rate",
                )
        return values
