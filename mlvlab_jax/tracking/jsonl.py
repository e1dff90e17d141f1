"""metrics.jsonl: one JSON object a record; after a resume no step is there twice and none is missing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.files import write_atomic
from mlvlab_jax.plugins import TRACKERS
from mlvlab_jax.tracking.lasting import LastingFile
from mlvlab_jax.types import RunInfo


@configclass
class JsonlParams:
    """Nothing to choose."""


@TRACKERS.register("jsonl", JsonlParams)
def make_jsonl(params: JsonlParams, *, workdir: Path) -> "JsonlTracker":
    """Writes `metrics.jsonl` in the run folder."""
    return JsonlTracker(workdir / "metrics.jsonl")


class JsonlTracker:
    """Appends {"step": k, "train/loss": ...} lines to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: LastingFile | None = None

    def start(self, info: RunInfo) -> None:
        """Drops records the resumed run will write again: later steps, and the test at the end."""
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines(keepends=True) if _stays(line, info)]
            write_atomic(self._path, "".join(kept).encode())
        self._file = LastingFile(self._path)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line."""
        if self._file is not None:
            self._file.append((json.dumps({"step": step, **values}) + "\n").encode())

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Not kept here."""

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Not kept here."""

    def progress(self, step: int, loss: float | None) -> None:
        """Not kept here."""

    def note(self, text: str) -> None:
        """Not kept here."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Not kept here: it is summary.json."""

    def finish(self) -> None:
        """Closes the file."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def _stays(line: str, info: RunInfo) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    again = ("test/", "validation/") if info.evaluates_first and record["step"] == info.first_step else ("test/",)
    return record["step"] <= info.first_step and not any(name.startswith(again) for name in record)
