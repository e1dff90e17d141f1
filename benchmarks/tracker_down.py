"""What an MLflow database that is locked costs training: ms a step with the tracker over without it, A B B A.

The lock is held by another connection for the whole run, and short runs exaggerate: the first attempts to connect cost
the same in a run of any length.
"""

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS, NUM_EPOCHS = 2, 24
CONFIG = Path(__file__).parent.parent / "configs" / "digits.yaml"


def train(workdir: Path, *overrides: str) -> float:
    """Milliseconds a step, waiting for input included."""
    command = [sys.executable, "-m", "mlvlab_jax.train", "--config", str(CONFIG), "--workdir", str(workdir)]
    subprocess.run([*command, *overrides], capture_output=True, check=True)
    summary = json.loads((workdir / "summary.json").read_text())
    return 1e3 * (summary["seconds"]["train"] + summary["seconds"]["input"]) / summary["steps"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        mlflow = f'{{name: mlflow, params: {{uri: "sqlite:///{database}", finish_timeout_s: 0.1}}}}'
        epochs = f"training.num_epochs={NUM_EPOCHS}"
        train(Path(folder) / "made", "training.num_epochs=1", f"tracking.trackers=[{mlflow}]")
        lock = sqlite3.connect(database)
        lock.execute("BEGIN EXCLUSIVE")
        times: dict[str, list[float]] = {"without": [], "locked": []}
        for number, which in enumerate(["without", "locked", "locked", "without"] * REPEATS):
            also = f", {mlflow}" if which == "locked" else ""
            trackers = f"tracking.trackers=[{{name: jsonl}}, {{name: tensorboard}}{also}]"
            times[which].append(round(train(Path(folder) / str(number), epochs, trackers), 3))
        lock.close()
    medians = {which: statistics.median(values) for which, values in times.items()}
    summary = {"T18_step_time": round(medians["locked"] / medians["without"], 3)}
    print(json.dumps({"unit": "ms a step", "results": times, "summary": summary}))


if __name__ == "__main__":
    main()
