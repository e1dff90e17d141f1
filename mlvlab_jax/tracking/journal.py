"""mlflow.jsonl: everything a run has to say to MLflow, one JSON object a line, in the order it was said.

The journal is the record and the store a view of it: what was not delivered yet, or to a store that was lost since,
is delivered from here.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlvlab_jax.tracking.lasting import LastingFile

NAME = "mlflow.jsonl"


class Journal:
    """Appends records; made again on the same file, it goes on with the same run.

    Args:
        path: The file.
        uri: Store that the records are for.
        experiment: Experiment there.
        name: Name of the run there.
    """

    def __init__(self, path: Path, *, uri: str, experiment: str, name: str) -> None:
        self.run = {"id": uuid.uuid4().hex, "uri": uri, "experiment": experiment, "name": name}
        self.has_params = False
        self._last_step: dict[str, int] = {}
        for record in read_records(path):
            self.has_params |= "params" in record
            self.run["id"] = record.get("run", self.run)["id"]
            self._last_step |= dict.fromkeys(record.get("metrics", ()), record.get("step", 0))
        self.file = LastingFile(path)
        self.append({"run": self.run})

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record and the time."""
        stamped = {"time": time.time_ns() // 1_000_000, **record}
        self.file.append((json.dumps(stamped, default=str) + "\n").encode())

    def append_curve(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points of curves whose steps only grow; those a run before a resume has told already are left out."""
        new = {name: float(value) for name, value in values.items() if step > self._last_step.get(name, -1)}
        self._last_step |= dict.fromkeys(new, step)
        if new:
            self.append({"step": step, "metrics": new})


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of the journal at `path`, none where there is no file; a last line that a crash cut off is cut off."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(path.stat().st_size - len(line))
                return
            yield json.loads(line)
