"""Types shared by all layers.

Dims in shape annotations: b batch, h height, w width, c channels, n tokens, d width of a layer, k classes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, TypedDict

import numpy as np

Tree: TypeAlias = Any
"""A pytree of arrays."""


class ImageSpec(NamedTuple):
    """Shape of one image, in pixels."""

    height: int
    width: int
    channels: int


class HostBatch(TypedDict):
    """One process's share of a batch, in host memory.

    image: uint8 (b, h, w, c); label: int32 (b), the class, or uint8 (b, k), 1 for each class of data of several labels;
    example_id: int32 (b), the index in the split;
    epoch: int32 (b), how often the split had been passed through; mask: float32 (b), 0 for padding.
    """

    image: np.ndarray
    label: np.ndarray
    example_id: np.ndarray
    epoch: np.ndarray
    mask: np.ndarray


class RunInfo(NamedTuple):
    """What a tracker is told once, at the start.

    hparams: the resolved configuration, flat. texts: the same as YAML, and the table of parameters. tags: what made the
    run: digests of configuration and installed packages, data and their versions, git state, seed, devices, flags.
    evaluates_first: whether the evaluation of `first_step` is still to be made, as a stop broke it off.
    """

    num_steps: int
    first_step: int
    batch_size: int
    num_params: int
    hparams: Mapping[str, str | int | float | bool]
    texts: Mapping[str, str]
    tags: Mapping[str, str]
    evaluates_first: bool = False


class Tracker(Protocol):
    """Where a run's numbers go. The engine sees nothing else of it."""

    def start(self, info: RunInfo) -> None:
        """Called once before the first step (again, with a later first_step, after a resume)."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` updates."""

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Images, uint8 (n, h, w, c)."""

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Arrays whose distribution is wanted."""

    def progress(self, step: int, loss: float | None) -> None:
        """Heartbeat: `step` updates are done; the loss of the last one whose value is known."""

    def note(self, text: str) -> None:
        """One line for the person watching."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """How the run ended, as in summary.json; not called for a run that an error ended."""

    def finish(self) -> None:
        """Flushes and closes; called once, whatever ended the run."""
