"""What trackers beside metrics.jsonl hold of a run: whether each of its points is there, and once."""

import collections
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Each name's steps in their order.
Curves = Mapping[str, Sequence[int]]


def find_strays(workdir: Path, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where TensorBoard's event files or MLflow's journal have a point too often or not at all, a line a curve.

    Args:
        workdir: Run folder; what it does not hold is not asked for.
        records: Of metrics.jsonl.
    """
    expected = _curves(records)
    held: dict[str, Curves] = {}
    if any(workdir.glob("events.out.tfevents.*")):
        held["TensorBoard"] = _read_tensorboard(workdir)
    if (workdir / "mlflow.jsonl").exists():
        held["mlflow.jsonl"] = _read_journal(workdir / "mlflow.jsonl")
    return [
        f"{tracker}, {name}: {describe_steps(steps, curves.get(name, []))}"
        for tracker, curves in held.items()
        for name, steps in expected.items()
        if sorted(curves.get(name, [])) != sorted(steps)
    ]


def describe_steps(expected: Sequence[int], found: Sequence[int]) -> str:
    """Which of the steps are there too often or too seldom."""
    wanted, there = collections.Counter(expected), collections.Counter(found)
    return f"too often {sorted(there - wanted)[:5]}, missing {sorted(wanted - there)[:5]}"


def _curves(records: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    curves: dict[str, list[int]] = {}
    for record in records:
        for name in record:
            if name != "step":
                curves.setdefault(name, []).append(record["step"])
    return curves


def _read_tensorboard(workdir: Path) -> Curves:
    """As TensorBoard shows them, which leaves out what a resumed run writes again."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each resume
    shown = EventAccumulator(str(workdir), size_guidance={SCALARS: 0})
    shown.Reload()
    return {name: [point.step for point in shown.Scalars(name)] for name in shown.Tags()[SCALARS]}


def _read_journal(path: Path) -> Curves:
    lines = map(json.loads, path.read_text().splitlines())
    return _curves([{"step": line["step"], **line["metrics"]} for line in lines if "metrics" in line])
