"""What a run knows beside its arrays: saved with them, so that a resumed run logs the same numbers."""

import dataclasses
from typing import Any, NamedTuple

import jax

from mlvlab_jax.engine.step import SCALARS
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
    """Batches taken, early stopping, the open window, and the newest metrics by name.

    skipped: the steps whose update was left out: one of the `step` batches each, and none of the updates that the state
    counts. evaluated: the step of the newest evaluation on the validation split, 0 before the first. examples:
    `append_batch` of all batches whose scalars have been read, in their order.
    """

    step: int = 0
    stopping: EarlyStopping = dataclasses.field(default_factory=EarlyStopping)
    window: Window = dataclasses.field(default_factory=Window)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: tuple[int, ...] = ()
    evaluated: int = 0
    examples: int = 0

    def to_tree(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Progress":
        """The inverse of `to_tree`."""
        stopping, window = EarlyStopping(**tree["stopping"]), Window(**tree["window"])
        # A run that was begun before these were kept goes on.
        skipped, evaluated = tuple(tree.get("skipped", ())), tree.get("evaluated", tree["step"])
        rest = {"skipped": skipped, "evaluated": evaluated, "examples": tree.get("examples", 0)}
        return cls(tree["step"], stopping, window, tree["metrics"], **rest)


class StepScalars(NamedTuple):
    """What a step reported. scalars: by the names of `SCALARS`."""

    step: int
    scalars: dict[str, float]


class LateMetrics:
    """Reads a step's scalars only after the next step is dispatched, so that the device never waits for the host."""

    def __init__(self) -> None:
        self._pending: tuple[int, jax.Array] | None = None

    def push(self, step: int, scalars: jax.Array) -> list[StepScalars]:
        """Takes the scalars of the steps up to `step`, float32 (steps, n) or (n), n in the order of `SCALARS`.

        Returns:
            Those of the steps of the dispatch before.
        """
        scalars.copy_to_host_async()
        ready = self.drain()
        self._pending = (step, scalars)
        return ready

    def drain(self) -> list[StepScalars]:
        """Waits for the newest scalars and gives them."""
        if self._pending is None:
            return []
        last, scalars = self._pending
        self._pending = None
        rows = jax.device_get(scalars).reshape(-1, len(SCALARS)).tolist()
        named = (dict(zip(SCALARS, row, strict=True)) for row in rows)
        return [StepScalars(step, values) for step, values in enumerate(named, start=last + 1 - len(rows))]

    def forget(self) -> None:
        """Leaves the newest scalars unread."""
        self._pending = None
