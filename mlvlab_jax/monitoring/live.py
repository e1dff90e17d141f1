"""Live accuracy: true classes that are told later, held against the answers that were given."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mlvlab_jax.evaluation.intervals import compute_wilson
from mlvlab_jax.monitoring.errors import UnknownLabelError, UnknownPredictionError
from mlvlab_jax.monitoring.folder import MAX_LABELS, format_time
from mlvlab_jax.monitoring.observation import Observation


class Label(NamedTuple):
    """The true class of an answer, and the class that was answered, of a version. time_s: when it was told."""

    request_id: str
    item: int
    label: int
    prediction: int
    version: str
    time_s: float

    def to_record(self) -> dict[str, Any]:
        """The line in labels.jsonl."""
        record = self._asdict()
        return record | {"time": format_time(record.pop("time_s"))}


class Unlabelled:
    """Answers that wait for their true class. Threads may share it; every call takes microseconds.

    Args:
        max_unlabelled: Answers remembered; beyond, the oldest is forgotten.
    """

    def __init__(self, *, max_unlabelled: int) -> None:
        self._max_unlabelled = max_unlabelled
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, int], tuple[int, str, Sequence[str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def remember(self, observations: Iterable[Observation], class_names: Sequence[str]) -> None:
        """Remembers the answers of a version with these classes."""
        answers = [
            ((seen.request_id, seen.item), (int(seen.probabilities.argmax()), seen.version, class_names))
            for seen in observations
        ]
        with self._lock:
            for key, answer in answers:
                self._answers[key] = answer
            while len(self._answers) > self._max_unlabelled:
                self._answers.popitem(last=False)

    def match(self, request_id: str, item: int, label: str) -> Label:
        """The answer to an image and its true class, which is asked for once.

        Args:
            request_id: Of the answer.
            item: Place of the image in the request.
            label: Name of the class or, where no class has that name, its number.

        Raises:
            UnknownPredictionError: The answer is not remembered.
            UnknownLabelError: The model that answered has no such class; it can be told again.
        """
        with self._lock:
            answer = self._answers.get((request_id, item))
            if answer is None:
                raise UnknownPredictionError(
                    "no such answer waits for its class; expected the request_id and item of a recent one, once"
                )
            prediction, version, class_names = answer
            index = _find_class(label, class_names)
            del self._answers[request_id, item]
        return Label(request_id, item, index, prediction, version, time.time())


class LiveAccuracy:
    """Share of right answers among the last 10,000 of one version whose true class was told."""

    def __init__(self, version: str, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self._version = version
        self._right: deque[bool] = deque(maxlen=MAX_LABELS)
        self._right.extend(each["label"] == each["prediction"] for each in records if each["version"] == version)

    def add(self, labels: Iterable[Label]) -> None:
        """Counts those of this version."""
        self._right.extend(each.label == each.prediction for each in labels if each.version == self._version)

    def summarize(self) -> dict[str, Any] | None:
        """num, correct, accuracy and the limits `low` and `high` of its 95 % interval (Wilson's); None of no labels."""
        num, correct = len(self._right), sum(self._right)
        if num == 0:
            return None
        low, high = compute_wilson(correct, num)
        return {"num": num, "correct": correct, "accuracy": correct / num, "low": float(low), "high": float(high)}


def _find_class(label: str, class_names: Sequence[str]) -> int:
    if label in class_names:
        return class_names.index(label)
    if label.isascii() and label.isdecimal() and len(label) < 10 and int(label) < len(class_names):
        return int(label)
    raise UnknownLabelError(f"no such class; expected one of {len(class_names)} names, or a number below that")
