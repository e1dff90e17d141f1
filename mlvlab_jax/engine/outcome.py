"""What a finished run left behind, without its timings, so that two runs can be held against each other."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.curves import describe_steps, find_strays
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.engine.telemetry import RATES

_TIMINGS = {*RATES, "mfu"}


class Outcome(NamedTuple):
    """The last state and what was written down.

    digests: of each array of the state, SHA-256 of shape, type and bytes. progress: what is saved with it. best: what
    summary.json says of the best state. records: lines of metrics.jsonl in their order. strays: `find_strays` of other
    trackers.
    """

    step: int
    digests: dict[str, str]
    progress: dict[str, Any]
    best: dict[str, Any]
    records: list[dict[str, Any]]
    strays: list[str]

    @property
    def digest(self) -> str:
        """One for the whole state."""
        return hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()


def read_outcome(workdir: Path) -> Outcome:
    """What the run in `workdir` ended with.

    Raises:
        CheckpointError: Its last checkpoint is damaged or missing.
    """
    with _open_store(workdir) as store:
        step = store.resolve("last")
        arrays, progress = store.read_arrays(step), store.read_progress(step)
    digests = {name: _digest(array) for name, array in sorted(arrays.items())}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [{name: value for name, value in json.loads(line).items() if name not in _TIMINGS} for line in lines]
    best = json.loads((workdir / "summary.json").read_text())["best"]
    return Outcome(step, digests, progress, best, records, find_strays(workdir, records))


def _open_store(workdir: Path) -> CheckpointStore:
    config = read_config(workdir)
    mode = config.training.early_stopping.mode
    return CheckpointStore(workdir / "checkpoints", config.checkpoint, mode=mode, read_only=True)


def list_differences(expected: Outcome, found: Outcome) -> list[str]:
    """In what two outcomes differ, a line each; empty where they are bit for bit the same."""
    lines = list_gaps(expected, found)
    names = sorted({*expected.digests, *found.digests})
    lines += [f"state {name}: other bits" for name in names if expected.digests.get(name) != found.digests.get(name)]
    lines += _compare("progress", expected.progress, found.progress)
    lines += _compare("best", expected.best, found.best)
    if _steps(expected) == _steps(found):
        pairs = zip(expected.records, found.records, strict=True)
        lines += [f"metrics.jsonl, step {a['step']}: {b}, expected {a}" for a, b in pairs if a != b]
    return lines


def list_gaps(expected: Outcome, found: Outcome) -> list[str]:
    """What was lost, doubled or seen in another order, a line each; not whether the numbers have the same bits."""
    lines = [] if found.step == expected.step else [f"last step {found.step}, expected {expected.step}"]
    if found.progress["examples"] != expected.progress["examples"]:
        lines.append("examples: the steps were given others, or in another order")
    steps = [_steps(outcome) for outcome in (expected, found)]
    if steps[0] != steps[1]:
        lines.append(f"metrics.jsonl: {len(steps[1])} records, expected {len(steps[0])}; {describe_steps(*steps)}")
    return lines + found.strays


def measure_distance(expected: Path, found: Path) -> dict[str, float]:
    """How far the last parameters of two runs are apart, by array: |a - b| / |a|, Euclidean.

    Raises:
        CheckpointError: The last checkpoint of one is damaged or missing.
    """
    arrays = []
    for workdir in (expected, found):
        with _open_store(workdir) as store:
            arrays.append(store.read_arrays(store.resolve("last")))
    names = [name for name in arrays[0] if name.startswith("variables/params/")]
    return {name: _distance(arrays[0][name], arrays[1][name]) for name in names}


def _distance(expected: np.ndarray, found: np.ndarray) -> float:
    apart, size = np.linalg.norm(np.subtract(expected, found, dtype=np.float64)), np.linalg.norm(expected)
    return float(apart / size) if size else float(apart)


def _steps(outcome: Outcome) -> list[int]:
    return [record["step"] for record in outcome.records]


def _compare(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    names = sorted({*expected, *found} - {"examples"})  # which `list_gaps` has
    return [
        f"{what}.{name}: {found.get(name)}, expected {expected.get(name)}"
        for name in names
        if expected.get(name) != found.get(name)
    ]


def _digest(array: np.ndarray) -> str:
    described = f"{array.shape} {array.dtype} ".encode()
    return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).hexdigest()
