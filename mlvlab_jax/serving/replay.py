"""Recorded requests put to another version: where it would have answered otherwise."""

import dataclasses
import datetime
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlvlab_jax.data.decode import BadImageError
from mlvlab_jax.errors import DataError
from mlvlab_jax.evaluation.intervals import Estimate, estimate_share
from mlvlab_jax.monitoring.recorder import RecordedRequest

if TYPE_CHECKING:
    from mlvlab_jax.serving.predictor import Predictor

#: Requests decoded and predicted together, and rows of each table of the report.
_CHUNK, _NUM_LISTED = 32, 20


class Difference(NamedTuple):
    """One request, answered by both.

    before, after: classes with the largest probability, and that probability: as recorded, and as replayed. change:
    mean absolute change of a class's probability. distance: half of the sum of these changes (total variation), 0 to 1.
    """

    request_id: str
    time_s: float
    before: str
    before_confidence: float
    after: str
    after_confidence: float
    change: float
    distance: float


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a version answered to recorded requests, beside what was answered then.

    recorded: number of requests by the model and version that answered then. unreadable: request id -> why the version
    cannot read the body. nonfinite: ids of requests it gave no finite answer to. only_before and only_after: classes
    that one side alone has; the other gives them probability 0.
    """

    model: str
    version: str
    recorded: Mapping[str, int]
    differences: Sequence[Difference]
    unreadable: Mapping[str, str]
    nonfinite: Sequence[str]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def agreement(self) -> Estimate:
        """Share of the requests answered by both with the same most probable class."""
        return estimate_share(np.array([row.before == row.after for row in self.differences]))

    @property
    def moves(self) -> list[tuple[tuple[str, str], int]]:
        """(Class before, class after) and requests, where these differ; the most frequent first."""
        moves = Counter((row.before, row.after) for row in self.differences if row.before != row.after)
        return sorted(moves.items(), key=lambda move: (-move[1], move[0]))

    @property
    def most_different(self) -> list[Difference]:
        """The 20 requests whose probabilities differ most."""
        return sorted(self.differences, key=lambda row: (-row.distance, row.request_id))[:_NUM_LISTED]

    def mean(self, name: str) -> float:
        """Mean of a number of `Difference` over all requests."""
        return float(np.mean([getattr(row, name) for row in self.differences]))

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        before, after = self.mean("before_confidence"), self.mean("after_confidence")
        return {
            "schema": 1,
            "model": self.model,
            "version": self.version,
            "recorded": dict(self.recorded),
            "num_answered": len(self.differences),
            "num_unreadable": len(self.unreadable),
            "num_nonfinite": len(self.nonfinite),
            "agreement": self.agreement._asdict(),
            "mean_absolute_change": self.mean("change"),
            "mean_distance": self.mean("distance"),
            "confidence": {"before": before, "after": after, "change": after - before},
            "moves": [{"before": pair[0], "after": pair[1], "num": num} for pair, num in self.moves],
            "classes": {"only_before": list(self.only_before), "only_after": list(self.only_after)},
            "most_different": [_to_tree(row) for row in self.most_different],
            "unreadable": dict(itertools.islice(self.unreadable.items(), _NUM_LISTED)),
            "nonfinite": list(self.nonfinite[:_NUM_LISTED]),
        }


def replay(requests: Iterable[RecordedRequest], predictor: "Predictor") -> Replay:
    """Puts recorded requests to `predictor`, and holds its answers against the recorded ones, class by class by name.

    Raises:
        DataError: It can answer none of them.
    """
    recorded: Counter[str] = Counter()
    differences: list[Difference] = []
    unreadable: dict[str, str] = {}
    nonfinite: list[str] = []
    names: dict[str, None] = {}
    requests = iter(requests)
    while chunk := list(itertools.islice(requests, _CHUNK)):
        recorded.update(f"{request.model} {request.version}" for request in chunk)
        names.update(dict.fromkeys(name for request in chunk for name in request.class_names))
        read, images = _decode(chunk, predictor, unreadable)
        if not read:
            continue
        for request, probabilities in zip(read, predictor.predict(np.stack(images)).probabilities, strict=True):
            if np.isfinite(probabilities).all():
                differences.append(_compare(request, predictor.class_names, probabilities))
            else:
                nonfinite.append(request.request_id)
    if not differences:
        reasons = [*unreadable.values(), *("its answer is not finite" for _ in nonfinite)][:1]
        raise DataError(
            f"{predictor.name} {predictor.version} answers none of {recorded.total()} recorded requests "
            f"({'; '.join(reasons)}); expected requests that it can read; give those of a model of the same task"
        )
    return Replay(
        model=predictor.name,
        version=predictor.version,
        recorded=recorded,
        differences=differences,
        unreadable=unreadable,
        nonfinite=nonfinite,
        only_before=tuple(name for name in names if name not in predictor.class_names),
        only_after=tuple(name for name in predictor.class_names if name not in names),
    )


def _decode(
    chunk: Sequence[RecordedRequest], predictor: "Predictor", unreadable: dict[str, str]
) -> tuple[list[RecordedRequest], list[np.ndarray]]:
    """The requests that can be read, and their pixels; the others are added to `unreadable`."""
    read, images = [], []
    for request in chunk:
        try:
            images.append(predictor.decode(request.body)[1])
            read.append(request)
        except BadImageError as error:
            unreadable[request.request_id] = error.describe()
    return read, images


def _compare(request: RecordedRequest, class_names: Sequence[str], probabilities: np.ndarray) -> Difference:
    """One row; probabilities (k) of `class_names`, against those of the request."""
    before = dict(zip(request.class_names, request.probabilities.astype(np.float64).tolist(), strict=True))
    after = dict(zip(class_names, probabilities.astype(np.float64).tolist(), strict=True))
    changes = [abs(after.get(name, 0.0) - before.get(name, 0.0)) for name in before | after]
    top_before, top_after = max(before, key=before.__getitem__), max(after, key=after.__getitem__)
    return Difference(
        request_id=request.request_id,
        time_s=request.time_s,
        before=top_before,
        before_confidence=before[top_before],
        after=top_after,
        after_confidence=after[top_after],
        change=sum(changes) / len(changes),
        distance=sum(changes) / 2,
    )


def _to_tree(row: Difference) -> dict[str, Any]:
    tree = row._asdict()
    return {"time": datetime.datetime.fromtimestamp(tree.pop("time_s"), datetime.UTC).isoformat(), **tree}
