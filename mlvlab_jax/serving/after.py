"""Those who are told of answers once they are out; none of them delays or breaks one."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from starlette.background import BackgroundTask

from mlvlab_jax.monitoring.observation import Observation

if TYPE_CHECKING:
    from mlvlab_jax.serving.predictor import Outputs

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What was asked in one request, and what was answered.

    images: uint8 (n h w c). size_px: height and width of the file as stored, None for pixels. latency_s: from the last
    byte of the request to the answer. file: content type and bytes of a request that was an image file.
    """

    request_id: str
    images: np.ndarray
    outputs: "Outputs"
    version: str
    latency_s: float
    size_px: tuple[int, int] | None = None
    file: tuple[str, bytes] | None = None


class Audience(NamedTuple):
    """Who is told.

    observe: of each image, all of a request at once. record: request id, content type, body and probabilities (k) of
    each image file.
    """

    observe: Callable[[Sequence[Observation]], None] | None
    record: Callable[[str, str, bytes, np.ndarray], None] | None

    def tell_later(self, answer: Answer) -> BackgroundTask | None:
        """What the response does after it was sent."""
        return BackgroundTask(self._tell, answer) if self.observe or self.record else None

    async def _tell(self, answer: Answer) -> None:
        if self.observe is not None:
            _call(self.observe, list_observations(answer))
        if self.record is not None and answer.file is not None:
            _call(self.record, answer.request_id, *answer.file, answer.outputs.probabilities[0])


def list_observations(answer: Answer) -> list[Observation]:
    """One for each image."""
    now = time.time()
    rows = zip(answer.images, answer.outputs.probabilities, answer.outputs.embedding, strict=True)
    id_, size_px, latency_s, version = answer.request_id, answer.size_px, answer.latency_s, answer.version
    return [
        Observation(id_, item, image, size_px, probabilities, embedding, latency_s, version, now)
        for item, (image, probabilities, embedding) in enumerate(rows)
    ]


def _call(observer: Callable[..., None], *arguments: Any) -> None:
    try:
        observer(*arguments)
    except Exception:  # noqa: BLE001 - an observer never breaks an answer
        _log.exception("an observer of answers failed")
