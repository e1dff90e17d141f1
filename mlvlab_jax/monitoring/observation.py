"""What the monitor is told of one answered image."""

from typing import NamedTuple

import numpy as np


class Observation(NamedTuple):
    """One image and the answer to it.

    request_id: of the request it came in, unique with `item`, its place in that request. image: the network's input,
    uint8 (h w c). size_px: height and width of the file as stored, None where the client sent pixels. probabilities:
    calibrated, float32 (k). embedding: float32 (d), what the classifier's last layer was given. latency_s: from arrival
    to answer. version: of the model that answered. time_s: of the answer, seconds since 1970.
    """

    request_id: str
    item: int
    image: np.ndarray
    size_px: tuple[int, int] | None
    probabilities: np.ndarray
    embedding: np.ndarray
    latency_s: float
    version: str
    time_s: float
