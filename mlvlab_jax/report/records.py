"""metrics.jsonl as curves."""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Series(NamedTuple):
    """One curve. steps: int64 (n), ascending, each once; values: float64 (n), NaN where they were not finite."""

    steps: np.ndarray
    values: np.ndarray


def read_records(path: Path) -> dict[str, Series]:
    """Curves by name; no file, no curves.

    A run that crashed and went on can have left a torn line and steps written twice: what is not a record is left out,
    and of two values of one step the later one counts.
    """
    found: dict[str, dict[int, float]] = {}
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not (isinstance(record, dict) and type(record.get("step")) is int):
            continue
        for name, value in record.items():
            if name != "step" and type(value) in (int, float):
                found.setdefault(name, {})[record["step"]] = float(value)
    return {name: _make_series(points) for name, points in found.items()}


def _make_series(points: dict[int, float]) -> Series:
    steps = np.array(sorted(points), np.int64)
    values = np.array([points[step] for step in steps.tolist()], np.float64)
    return Series(steps, np.where(np.isfinite(values), values, np.nan))


def thin_series(series: Series, *, max_points: int) -> Series:
    """At most `max_points` points that draw the same curve: of neighbours the lowest and the highest stay.

    Args:
        series: One that is short enough comes back as it is; a gap stays a gap.
        max_points: Even, at least 4.
    """
    count = len(series.steps)
    if count <= max_points:
        return series
    # The first and the last point are kept for themselves, so that the curve begins and ends where the run did.
    edges = np.linspace(1, count - 1, max_points // 2).astype(int).tolist()
    kept = {0, count - 1}
    for low, high in itertools.pairwise(edges):
        values = series.values[low:high]
        kept |= {low + int(values.argmin()), low + int(values.argmax())}  # both are the first NaN where there is one
    chosen = sorted(kept)
    return Series(series.steps[chosen], series.values[chosen])
