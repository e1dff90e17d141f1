"""What a finished run left behind, without its timings, so that two runs can be held against each other."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.engine.telemetry import RATES

_TIMINGS = {*RATES, "mfu"}


class Outcome(NamedTuple):
    """The last state and what was written down.

    digests: of each array of the state, SHA-256 of shape, type and bytes. progress: what is saved with it. best: what
    summary.json says of the best state. records: lines of metrics.jsonl in their order.
    """

    step: int
    digests: dict[str, str]
    progress: dict[str, Any]
    best: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def digest(self) -> str:
        """One for the whole state."""
        return hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()


def read_outcome(workdir: Path) -> Outcome:
    """What the run in `workdir` ended with.

    Raises:
        CheckpointError: Its last checkpoint is damaged or missing.
    """
    config = read_config(workdir)
    mode = config.training.early_stopping.mode
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode=mode, read_only=True) as store:
        step = store.resolve("last")
        arrays, progress = store.read_arrays(step), store.read_progress(step)
    digests = {name: _digest(array) for name, array in sorted(arrays.items())}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [{name: value for name, value in json.loads(line).items() if name not in _TIMINGS} for line in lines]
    best = json.loads((workdir / "summary.json").read_text())["best"]
    return Outcome(step, digests, progress, best, records)


def list_differences(expected: Outcome, found: Outcome) -> list[str]:
    """In what two outcomes differ, a line each; empty where they are bit for bit the same."""
    lines = [] if found.step == expected.step else [f"last step {found.step}, expected {expected.step}"]
    names = sorted({*expected.digests, *found.digests})
    lines += [f"state {name}: other bits" for name in names if expected.digests.get(name) != found.digests.get(name)]
    lines += _compare("progress", expected.progress, found.progress)
    lines += _compare("best", expected.best, found.best)
    steps = [[record["step"] for record in outcome.records] for outcome in (expected, found)]
    if steps[0] != steps[1]:
        lines.append(f"metrics.jsonl: {len(steps[1])} records, expected {len(steps[0])}; {_describe_steps(*steps)}")
    else:
        pairs = zip(expected.records, found.records, strict=True)
        lines += [f"metrics.jsonl, step {a['step']}: {b}, expected {a}" for a, b in pairs if a != b]
    return lines


def _compare(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    names = sorted({*expected, *found})
    return [
        f"{what}.{name}: {found.get(name)}, expected {expected.get(name)}"
        for name in names
        if expected.get(name) != found.get(name)
    ]


def _describe_steps(expected: list[int], found: list[int]) -> str:
    twice = sorted({step for step in found if found.count(step) > expected.count(step)})
    missing = sorted({step for step in expected if found.count(step) < expected.count(step)})
    return f"too often {twice[:5]}, missing {missing[:5]}"


def _digest(array: np.ndarray) -> str:
    described = f"{array.shape} {array.dtype} ".encode()
    return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).hexdigest()
