"""What the predictor and the batcher refuse, and why. No message tells of the server: a client may see it."""

from typing import Literal

from mlvlab_jax.errors import DataError, MlvlabError

Refusal = Literal["queue_full", "draining"]


class InputError(DataError):
    """The images are not what the model takes; the message names their own type and shape, and what was expected."""


class OverloadedError(MlvlabError):
    """The request was not taken: the queue is full, or the server is about to stop.

    Args:
        retry_after_s: Seconds after which there should be room.
        reason: "queue_full" or "draining".
    """

    def __init__(self, retry_after_s: float, *, reason: Refusal = "queue_full") -> None:
        super().__init__("too many requests wait already" if reason == "queue_full" else "the server is stopping")
        self.retry_after_s = retry_after_s
        self.reason = reason


class DeadlineError(MlvlabError):
    """The request's deadline passed before its answer was there."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the answer was there")


class PredictionError(MlvlabError):
    """The model gave no answer for an image: it failed on it, or its logits are not finite.

    Args:
        index: Of the first such image in its request.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"the model gives no answer for image {index}")
        self.index = index
